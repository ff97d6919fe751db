"""Token limits beyond what a pretrained tower knows, for both kinds of towers: positions, features, training."""

import pytest
import torch
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel

from lotlip.errors import ShapeError
from lotlip.model.build import Parts, build_model
from lotlip.params import Method
from tests.training.tiny_training import LOTLIP, WORDS, Project

NUM_POSITIONS, KEEP = 32, 20
LIMITS = [77, 128, 192, 256]
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
METHODS = {"bert": LOTLIP, "causal": Method(image_tower="locked", text_tower="causal", num_long=1)}


def build(project: Project, kind: str, pretrained: bool, limit: int) -> Parts:
    source = None
    if pretrained:
        source = str(project.folder / kind)
        _save_tower(kind, source)
    torch.manual_seed(1)
    return build_model(project.settings(text_tower=source, token_limit=limit, keep_positions=KEEP), METHODS[kind])


def _save_tower(kind: str, folder: str) -> None:
    torch.manual_seed(0)
    text = {**SHAPE, "vocab_size": 5 + len(WORDS) + 1, "max_position_embeddings": NUM_POSITIONS}
    if kind == "bert":
        tower = BertModel(BertConfig(**text))
    else:
        vision = {**SHAPE, "image_size": 16, "patch_size": 8}
        tower = CLIPModel(CLIPConfig(text_config={**text, "eos_token_id": 3, "pad_token_id": 0}, vision_config=vision))
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    tower.save_pretrained(folder)


def positions(parts: Parts) -> torch.Tensor:
    (found,) = (p for name, p in parts.model.text_tower.named_parameters() if "position_embedding" in name)
    return found.detach()


def features(parts: Parts, num_words: int) -> torch.Tensor:
    texts = parts.tokenizer([" ".join(WORDS[i % len(WORDS)] for i in range(num_words))])
    ids, mask = (torch.from_numpy(texts[name]) for name in ("input_ids", "attention_mask"))
    return parts.model.eval().get_text_features(ids, mask)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("kind", METHODS)
def test_a_shorter_tower_is_stretched(
    project: Project, kind: str, limit: int, capsys: pytest.CaptureFixture[str]
) -> None:
    old = build(project, kind, True, NUM_POSITIONS)
    capsys.readouterr()
    new = build(project, kind, True, limit)
    assert (
        f"has 32 positions and token_limit is {limit}: the first 20 stay, the others are stretched over {limit - 20}"
        in capsys.readouterr().out
    )
    before, after = positions(old), positions(new)
    assert after.shape == (limit, 16)
    assert torch.equal(after[:KEEP], before[:KEEP])
    for place in (KEEP, KEEP + 1, 40, 60, limit - 1):  # by hand: 12 positions spread over limit - 20
        read = KEEP + (place - KEEP) * 12 / (limit - KEEP)
        left = min(int(read), NUM_POSITIONS - 2)
        expected = before[left] + (read - left) * (before[left + 1] - before[left])
        torch.testing.assert_close(after[place], expected, atol=1e-5, rtol=0)
    new.model.text_tower.projection.load_state_dict(old.model.text_tower.projection.state_dict())
    special = 2 + new.model.config.num_corner_tokens
    assert torch.equal(features(new, KEEP - special), features(old, KEEP - special))
    assert not torch.allclose(features(new, KEEP + 2 - special), features(old, KEEP + 2 - special), atol=1e-4)


@pytest.mark.parametrize("kind", METHODS)
def test_a_longer_tower_stays_as_it_is(project: Project, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    parts = build(project, kind, True, 24)
    assert positions(parts).shape == (NUM_POSITIONS, 16)
    assert "stretched" not in capsys.readouterr().out


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("kind", METHODS)
def test_texts_reach_the_limit_and_every_position_learns(
    project: Project, kind: str, pretrained: bool, limit: int
) -> None:
    parts = build(project, kind, pretrained, limit)
    (position,) = (p for name, p in parts.model.text_tower.named_parameters() if "position_embedding" in name)
    assert len(position) == limit
    text = " ".join(WORDS[i % len(WORDS)] for i in range(300))
    ids = torch.from_numpy(parts.tokenizer([text])["input_ids"])
    assert ids.shape == (1, limit)
    output = parts.model.train()(torch.stack([ids, ids], dim=1), image_embeds=torch.randn(1, 16))
    output.text_embeds.square().sum(dim=-1).add(output.text_embeds[..., 0]).sum().backward()
    assert (position.grad.abs().sum(dim=1) > 0).all()
    with pytest.raises(ShapeError, match=f"have {limit + 1} ids and the model's limit is {limit}"):
        parts.model.get_text_features(torch.cat([ids, ids[:, -1:]], dim=1))


@pytest.mark.parametrize("kind", METHODS)
def test_a_stretched_tower_trains_on_more_long_texts_than_there_are(project: Project, kind: str) -> None:
    _save_tower(kind, str(project.folder / kind))
    method = METHODS[kind].model_copy(update={"num_long": 3})  # each sample has one long text of 4 sub-captions
    result = project.train(
        method, epochs=1, text_tower=str(project.folder / kind), token_limit=77, keep_positions=KEEP, run_length=9
    )
    assert result.metrics["skipped_steps"] == 0
    assert result.metrics["texts_seen"] == 4 * 64
    assert result.metrics["truncated_text_share"] == 0.0
    assert {f"loss_long{k}_cls" for k in range(3)} <= result.metrics.keys()
