"""CLIP's text transformer, packed, against transformers' own padded one: forward and gradient."""

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, ViTConfig

from lotlip.errors import ModelError
from lotlip.model import packing
from lotlip.model.config import LotlipConfig
from lotlip.model.modeling import LotlipModel
from tests.model.test_text_tower import slow_varlen

START, END, VOCAB, LIMIT = 38, 39, 40, 16


def text_config(pad: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LIMIT,
        projection_dim=24,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=pad,
    )


def make_pair(pad: int) -> tuple[LotlipModel, CLIPTextModelWithProjection]:
    torch.manual_seed(0)
    vision = ViTConfig(image_size=16, patch_size=8, hidden_size=24, num_hidden_layers=1, num_attention_heads=2)
    config = LotlipConfig(
        text_config=text_config(pad), vision_config=vision, embed_dim=24, num_corner_tokens=0, token_limit=LIMIT
    )
    ours, peer = LotlipModel(config).double().eval(), CLIPTextModelWithProjection(text_config(pad)).double().eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    ours.text_tower.clip.load_state_dict(peer.text_model.state_dict())
    ours.text_tower.projection.load_state_dict(peer.text_projection.state_dict())
    return ours, peer


def make_texts(pad: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    rows = []
    for length in (3, 0, 14, 7, 3):
        text = torch.randint(5, START, (length,), generator=generator).tolist()
        rows.append([START, *text, END] + [pad] * (14 - length))
    return torch.tensor(rows)


@pytest.mark.parametrize("pad", [0, END])
@pytest.mark.parametrize("kernel", ["by length", "varlen"])
def test_features_and_gradients_equal_transformers(pad: int, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, peer = make_pair(pad)
    if kernel == "varlen":
        monkeypatch.setattr(packing, "has_varlen_kernel", lambda query: True)
        monkeypatch.setattr(packing.varlen, "varlen_attn", slow_varlen)
    ids = make_texts(pad)
    expected = peer(ids).text_embeds
    found = ours.text_tower.encode_classes(ids)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    expected.sin().sum().backward()
    found.sin().sum().backward()
    wanted = dict(peer.text_model.named_parameters())
    for name, parameter in ours.text_tower.clip.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, atol=1e-10, rtol=1e-8, msg=name)
    assert ours.get_input_embeddings() is ours.text_tower.clip.embeddings.token_embedding


def test_token_features_are_the_projected_final_states() -> None:
    ours, peer = make_pair(pad=0)
    ids = make_texts(pad=0)
    features, keep = ours.text_tower.encode_tokens(ids)
    expected = peer.text_projection(peer.text_model(ids).last_hidden_state)
    torch.testing.assert_close(features, expected * (ids != 0)[..., None], atol=1e-10, rtol=0)
    assert torch.equal(keep, ids != 0)


def test_it_has_no_corners() -> None:
    vision = ViTConfig(image_size=16, patch_size=8, hidden_size=24, num_hidden_layers=1, num_attention_heads=2)
    config = LotlipConfig(text_config=text_config(0), vision_config=vision, embed_dim=24, token_limit=LIMIT)
    with pytest.raises(ModelError, match="2 corner tokens need a BERT text tower"):
        LotlipModel(config)
