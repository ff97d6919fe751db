"""Texts of real lengths and a text tower of BERT-base width, with two independent ways to run it.

Lengths follow the published statistics (METHOD.md): raw captions of 14 word pieces on average, log-normal, so that they
fill 14% of 128 padded ids; long texts of 136 on average, normal with a deviation of 40, cut at the limit. Runs of 3 of
a long text's sub-captions, as training draws them, are 66 on average; their deviation of 20 is ours.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, ViTConfig

from lotlip.model.config import LotlipConfig
from lotlip.model.modeling import LotlipModel

LIMIT, CORNERS, VOCABULARY = 128, 2, 30522
WIDTH = 768
START, END = 101, 102


def make_ids(kind: str, num_texts: int, seed: int = 0) -> Tensor:
    """Ids [B, 128] of raw or long texts or runs, corners in place, padded."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(num_texts, generator=generator)
    lengths = {"raw": (2.5 + 0.5 * normal).exp(), "long": 136 + 40 * normal, "run": 66 + 20 * normal}[kind]
    lengths = lengths.round().long().clamp(1, LIMIT - CORNERS - 2)
    ids = torch.randint(1000, VOCABULARY, (num_texts, LIMIT), generator=generator)
    places = torch.arange(LIMIT)
    ids[:, 0] = START
    ids[:, 1 : 1 + CORNERS] = VOCABULARY + torch.arange(CORNERS)
    end = lengths[:, None] + CORNERS + 1
    ids[places == end] = END
    ids[places > end] = 0
    return ids


def make_model(num_layers: int) -> LotlipModel:
    """LoTLIP's text tower at BERT-base width beside a tiny image tower, without dropout, seeded."""
    torch.manual_seed(0)
    text = BertConfig(
        vocab_size=VOCABULARY + CORNERS,
        num_hidden_layers=num_layers,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    vision = ViTConfig(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=12, image_size=32, patch_size=32)
    return LotlipModel(LotlipConfig(text_config=text, vision_config=vision, num_corner_tokens=CORNERS))


def text_flops(ids: Tensor, num_layers: int, num_read: int, with_corners: bool) -> float:
    """Useful FLOPs of one forward pass: every token once, the last layer's queries and dense part for what is read."""
    tokens = (ids != 0).sum(dim=1).double() - (0 if with_corners else CORNERS)
    dense_kv, dense_rest = 2 * 2 * WIDTH**2, 2 * (2 + 8) * WIDTH**2  # a token: keys and values; all else
    full = (num_layers - 1) * ((dense_kv + dense_rest) * tokens + 4 * WIDTH * tokens**2)
    last = dense_kv * tokens + num_read * (dense_rest + 4 * WIDTH * tokens + 2 * 2 * WIDTH**2)
    return float((full + last).sum())


class ReleasedWay(nn.Module):
    """The released implementation's way: 128 padded ids, a mask built text by text, plain attention.

    Own code on transformers' BertModel; `build_mask` and `attention` make the faster padded variant.
    """

    def __init__(self, model: LotlipModel, attention: str, build_mask: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.bert = BertModel._from_config(model.config.text_config, attn_implementation=attention)
        self.bert.load_state_dict(model.text_tower.bert.state_dict())
        self.projection = nn.Linear(model.config.text_config.hidden_size, model.config.embed_dim, bias=False)
        self.projection.load_state_dict(model.text_tower.projection.state_dict())
        self.build_mask = build_mask

    def forward(self, ids: Tensor, num_slots: int) -> Tensor:
        """Unit-length features [B, num_slots, D] of `[CLS]` and corners."""
        states = self.bert(ids, attention_mask=self.build_mask(ids)).last_hidden_state[:, :num_slots]
        pooled = torch.tanh(self.bert.pooler.dense(states))
        return nn.functional.normalize(self.projection(pooled), dim=-1)


def mask_by_loop(ids: Tensor) -> Tensor:
    """Text by text, row by row: float [B, 1, L, L], 0 or the lowest number."""
    mask = torch.full((len(ids), 1, LIMIT, LIMIT), torch.finfo(torch.float32).min, device=ids.device)
    for text, own in zip(ids, mask, strict=True):
        length = int((text != 0).sum())
        own[0, :, 0] = 0
        own[0, :, CORNERS + 1 : length] = 0
        for corner in range(1, CORNERS + 1):
            own[0, corner, 0] = torch.finfo(torch.float32).min
            own[0, corner, corner] = 0
    return mask


def mask_vectorised(ids: Tensor) -> Tensor:
    """The same for all texts at once, bool, as scaled_dot_product_attention takes it."""
    places = torch.arange(LIMIT, device=ids.device)
    is_text, is_corner = places > CORNERS, (places > 0) & (places <= CORNERS)
    seen = is_text | ((places == 0) & ~is_corner[:, None]) | torch.eye(LIMIT, device=ids.device).bool()
    return (seen & (ids != 0)[:, None, :])[:, None]
