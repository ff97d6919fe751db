"""Models built from pretrained towers: a BERT without pooler, a whole CLIP, stretched positions, other sizes."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, CLIPConfig, CLIPModel

from lotlip.errors import ModelError
from lotlip.model.build import build_model
from lotlip.model.image_tower import image_features, load_image_tower
from lotlip.model.outline import outline
from lotlip.params import Method
from tests.training.tiny_training import LOTLIP, WORDS, Project

VOCAB = 5 + len(WORDS) + 1
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CLIP = Method(image_tower="unlocked", image_projection=True, text_tower="causal")


@pytest.fixture
def clip(project: Project) -> CLIPModel:
    torch.manual_seed(3)
    text = {**SHAPE, "vocab_size": VOCAB, "max_position_embeddings": 12, "eos_token_id": 3, "pad_token_id": 0}
    vision = {**SHAPE, "hidden_size": 24, "image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)).eval()
    with torch.no_grad():
        model.logit_scale.fill_(4.0)
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(project.folder / "clip")
    return model


def clip_settings(project: Project, **changes: object):
    source = str(project.folder / "clip")
    return project.settings(
        **{"text_tower": source, "image_tower": source, "embed_dim": 20, "token_limit": 12, **changes}
    )


def test_a_whole_clip_goes_on_where_it_was(project: Project, clip: CLIPModel) -> None:
    parts = build_model(clip_settings(project), CLIP)
    model = parts.model.eval()
    texts = parts.tokenizer([WORDS[0], f"{WORDS[1]} {WORDS[2]}"])
    ids, mask = (torch.from_numpy(texts[name]) for name in ("input_ids", "attention_mask"))
    pixels = torch.randn(2, 3, 16, 16)
    output = clip(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    torch.testing.assert_close(model.get_text_features(ids, mask), output.text_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.get_image_features(pixels), output.image_embeds, atol=1e-5, rtol=0)
    assert model.logit_scale.item() == pytest.approx(clip.logit_scale.item())


def test_long_clip_keeps_the_first_positions_of_clip(
    project: Project, clip: CLIPModel, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_model(clip_settings(project, token_limit=36, keep_positions=4), CLIP).model
    old = clip.text_model.embeddings.position_embedding.weight
    new = model.text_tower.transformer.embeddings.position_embedding.weight
    assert new.shape == (36, 16)
    assert torch.equal(new[:4], old[:4])
    torch.testing.assert_close(new[4::4], old[4:])
    assert "has 12 positions and token_limit is 36: the first 4 stay" in capsys.readouterr().out


def test_a_language_model_without_pooler_gets_a_new_one(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    bert = BertForMaskedLM(BertConfig(vocab_size=VOCAB, max_position_embeddings=32, **SHAPE))
    bert.save_pretrained(project.folder / "bert")
    model = build_model(project.settings(text_tower=str(project.folder / "bert")), LOTLIP).model
    assert "has no pooler: a new one is trained" in capsys.readouterr().out
    assert torch.equal(model.get_input_embeddings().weight[:-2], bert.bert.embeddings.word_embeddings.weight)
    found = dict(model.text_tower.transformer.named_parameters())
    assert all(torch.equal(found[n], p) for n, p in bert.bert.named_parameters() if "word_embeddings" not in n)


def test_a_tower_of_another_kind_is_refused(project: Project, clip: CLIPModel) -> None:
    settings = clip_settings(project)
    with pytest.raises(ModelError, match="is a 'clip'; text_tower: bert takes bert"):
        build_model(settings, CLIP.model_copy(update={"text_tower": "bert"}))
    with pytest.raises(ModelError, match="image tower is 24 wide and embed_dim is 20"):
        build_model(settings, CLIP.model_copy(update={"image_projection": False}))


def test_the_sigmoid_objective_starts_from_its_own_scale_and_bias(project: Project) -> None:
    model = build_model(project.settings(), Method(objective="sigmoid")).model
    assert (model.logit_scale.exp().item(), model.logit_bias.item()) == (pytest.approx(10.0), -10.0)
    few = build_model(project.settings(), Method(objective="sigmoid", sigmoid_bias=-4.5)).model
    assert few.logit_bias is not None
    assert few.logit_bias.item() == -4.5


def test_a_fresh_image_tower_has_the_sizes_and_no_weights_of_its_checkpoint(project: Project) -> None:
    opened = load_image_tower(str(project.folder / "vit"))
    settings, method = project.settings(), Method(image_tower="fresh")
    torch.manual_seed(1)
    parts = build_model(settings, method)
    assert all(p.requires_grad for p in parts.model.image_tower.parameters())
    assert parts.image_settings == opened.settings
    fresh = parts.model.image_tower.state_dict()
    known = opened.tower.state_dict()
    assert {name: x.shape for name, x in fresh.items()} == {name: x.shape for name, x in known.items()}
    matrices = [name for name, x in known.items() if x.ndim > 1 and x.any()]
    assert matrices
    assert not any(torch.equal(fresh[name], known[name]) for name in matrices)
    (project.folder / "vit/model.safetensors").unlink()  # it is not even read
    torch.manual_seed(1)
    again = build_model(settings, method).model
    pixels = torch.randn(2, 3, 16, 16)
    found = [image_features(model.image_tower.eval(), pixels) for model in (parts.model, again)]
    assert torch.equal(*found)


def test_a_fresh_tower_leaves_the_scale_of_a_clip_alone(project: Project, clip: CLIPModel) -> None:
    model = build_model(clip_settings(project), CLIP.model_copy(update={"image_tower": "fresh"})).model
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)


@pytest.mark.parametrize(
    "method",
    [
        LOTLIP,
        Method(objective="sigmoid"),
        Method(image_tower="fresh", image_projection=True, text_tower="causal"),
        CLIP,
    ],
    ids=["lotlip", "sigmoid", "fresh", "clip"],
)
def test_an_outline_is_the_model_without_its_weights(
    project: Project, clip: CLIPModel, method: Method, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = clip_settings(project, token_limit=36) if method == CLIP else project.settings()
    built = build_model(settings, method).model
    said = capsys.readouterr().out.splitlines()
    found = outline(settings, method)
    assert all(parameter.is_meta for parameter in found.model.parameters())
    sizes = {name: (p.shape, p.requires_grad) for name, p in built.named_parameters()}
    assert {name: (p.shape, p.requires_grad) for name, p in found.model.named_parameters()} == sizes
    assert found.num_trained == sum(p.numel() for p in built.parameters() if p.requires_grad)
    assert list(found.notes) == said
    known, outlined = built.config.to_dict(), found.config.to_dict()
    if method == CLIP:  # its weights tell its scale
        assert known.pop("logit_scale_init") == pytest.approx(clip.logit_scale.item())
        outlined.pop("logit_scale_init")
    for part in ("text_config", "vision_config"):
        known[part].pop("dtype"), outlined[part].pop("dtype")  # of the file, which is not opened here
    assert outlined == known
