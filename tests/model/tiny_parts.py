"""Tiny towers and models with random weights, and a slow, obvious implementation of the text tower."""

import torch
from torch import Tensor
from transformers import BertConfig, BertModel, ViTConfig

from lotlip.model.config import LotlipConfig
from lotlip.model.modeling import LotlipModel

PLAIN_VOCAB = 40
CLS, SEP, PAD = 2, 3, 0


def tiny_config(num_corner_tokens: int = 2, token_limit: int = 16, corner_mask: bool = True) -> LotlipConfig:
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return LotlipConfig(
        text_config=BertConfig(
            vocab_size=PLAIN_VOCAB + num_corner_tokens,
            max_position_embeddings=token_limit,
            **shape,
            **dropout,
        ),
        vision_config=ViTConfig(image_size=16, patch_size=8, **shape),
        embed_dim=32,
        num_corner_tokens=num_corner_tokens,
        corner_mask=corner_mask,
        token_limit=token_limit,
    )


def tiny_model(dtype: torch.dtype = torch.float32, **settings: object) -> LotlipModel:
    torch.manual_seed(0)
    model = LotlipModel(tiny_config(**settings)).to(dtype).eval()
    with torch.no_grad():  # large random weights, so that differences show
        for parameter in model.text_tower.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def make_ids(lengths: list[int], num_corner_tokens: int, width: int | None = None) -> Tensor:
    """Random texts of `lengths` tokens, with corners, padded: int64 [B, L]."""
    generator = torch.Generator().manual_seed(sum(lengths))
    rows = []
    corners = list(range(PLAIN_VOCAB, PLAIN_VOCAB + num_corner_tokens))
    for length in lengths:
        text = torch.randint(5, PLAIN_VOCAB, (length,), generator=generator).tolist()
        rows.append([CLS, *corners, *text, SEP])
    width = width or max(len(row) for row in rows)
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


def plain_bert(model: LotlipModel) -> BertModel:
    """transformers' own BERT with the weights of the model's text tower."""
    peer = BertModel._from_config(model.config.text_config).to(model.dtype).eval()
    peer.load_state_dict(model.text_tower.bert.state_dict())
    return peer


def slow_slots(model: LotlipModel, ids: Tensor, corner_mask: bool = True) -> Tensor:
    """Features [B, 1 + m, D] text by text, query by query: every attention written out, nothing shared."""
    bert, m = model.text_tower.bert, model.config.num_corner_tokens
    features = []
    for row in ids:
        row = row[row != PAD]
        states = bert.embeddings(row[None], position_ids=torch.arange(len(row))[None])[0]
        for layer in bert.encoder.layer:
            states = torch.stack([_attend(layer, states, i, m, corner_mask) for i in range(len(row))])
        pooled = torch.tanh(states[: 1 + m] @ bert.pooler.dense.weight.T + bert.pooler.dense.bias)
        features.append(pooled @ model.text_tower.projection.weight.T)
    return torch.stack(features)


def _attend(layer, states: Tensor, query_at: int, m: int, corner_mask: bool) -> Tensor:
    is_corner = [1 <= i <= m for i in range(len(states))]
    if not corner_mask:
        visible = list(range(len(states)))
    elif is_corner[query_at]:
        visible = [i for i in range(len(states)) if i == query_at or i > m]
    else:
        visible = [i for i in range(len(states)) if not is_corner[i]]
    own = layer.attention.self
    heads, size = own.num_attention_heads, own.attention_head_size
    query = own.query(states[query_at]).view(heads, size)
    keys = own.key(states[visible]).view(-1, heads, size)
    values = own.value(states[visible]).view(-1, heads, size)
    weights = torch.einsum("hd,khd->hk", query, keys).div(size**0.5).softmax(dim=-1)
    context = torch.einsum("hk,khd->hd", weights, values).flatten()
    attended = layer.attention.output(context, states[query_at])
    return layer.output(layer.intermediate(attended), attended)
