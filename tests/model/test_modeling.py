"""The dual encoder: slot order, saving, loading, Auto classes, errors, reduced precision, compilation."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModel

import lotlip
from lotlip.errors import ModelError, ShapeError
from lotlip.model.modeling import LotlipModel
from tests.model.tiny_parts import make_ids, slow_slots, tiny_config, tiny_model


def texts_of_two_images() -> torch.Tensor:
    """[2, 1 + 2, 12]"""
    return torch.stack([make_ids([2, 8, 5], 2, width=12), make_ids([4, 1, 7], 2, width=12)])


def test_slots_are_in_order() -> None:
    model = tiny_model(torch.float64)
    ids = texts_of_two_images()
    output = model(ids, image_embeds=torch.randn(2, 32, dtype=torch.float64))
    assert output.text_embeds.shape == (2, 1 + 2 * 3, 32)
    for image in range(2):
        slots = functional.normalize(slow_slots(model, ids[image]), dim=-1)
        expected = torch.cat([slots[0, :1], slots[1], slots[2]])
        torch.testing.assert_close(output.text_embeds[image], expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(output.logit_scale, torch.tensor(1 / 0.07, dtype=torch.float64), rtol=1e-6, atol=0)


def test_features_are_those_of_forward_and_of_unit_length() -> None:
    model = tiny_model()
    ids, pixels = make_ids([3, 6], 2), torch.randn(2, 3, 16, 16)
    output = model(ids, pixel_values=pixels)
    torch.testing.assert_close(output.text_embeds[:, 0], model.get_text_features(ids))
    torch.testing.assert_close(output.image_embeds, model.get_image_features(pixels))
    torch.testing.assert_close(output.image_embeds.norm(dim=-1), torch.ones(2))
    expected = model.image_tower(pixel_values=pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(output.image_embeds, functional.normalize(expected, dim=-1))


def test_save_and_load_give_equal_outputs(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    model.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    ids, pixels = texts_of_two_images(), torch.randn(2, 3, 16, 16)
    expected = model(ids, pixel_values=pixels)
    for loaded in (LotlipModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(loaded) is lotlip.LotlipModel
        found = loaded(ids, pixel_values=pixels)
        for name in ("text_embeds", "image_embeds", "logit_scale"):
            assert torch.equal(found[name], expected[name]), name
    assert AutoConfig.from_pretrained(tmp_path).num_corner_tokens == 2


def test_every_weight_gets_a_gradient() -> None:
    model = tiny_model().train()
    output = model(texts_of_two_images(), pixel_values=torch.randn(2, 3, 16, 16))
    (output.text_embeds * output.image_embeds[:, None]).sum().mul(output.logit_scale).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == [], "no gradient"


def test_new_corners_start_from_a_narrow_normal() -> None:
    torch.manual_seed(0)
    model = LotlipModel(tiny_config(num_corner_tokens=4))
    corners = model.get_input_embeddings().weight[-4:]
    assert corners.std().item() == pytest.approx(0.02, rel=0.2)


def test_bf16_autocast_stays_near() -> None:
    torch.manual_seed(0)
    model = LotlipModel(tiny_config()).eval()
    ids = make_ids([3, 9], 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.get_text_features(ids)
    assert functional.cosine_similarity(found.float(), model.get_text_features(ids)).min() > 0.99


def test_features_that_are_not_numbers_are_refused_outside_training() -> None:
    model = tiny_model()
    pixels = torch.randn(3, 3, 16, 16)
    pixels[1, 0, 2, 2] = float("nan")
    with pytest.raises(ModelError, match="features of 1 of 3 images are NaN or infinite"):
        model.get_image_features(pixels)
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = float("inf")
    ids = make_ids([3, 6], 2)
    ids[0, 4], ids[1, 4] = 7, 8
    with pytest.raises(ModelError, match="features of 1 of 2 texts"):
        model.get_text_features(ids)
    assert model.train().get_text_features(ids)[0].isnan().all(), "a training step is skipped by its guard"


@pytest.mark.parametrize("num_corners", [0, 2])
def test_compiled_it_gives_the_same_features_and_gradients(num_corners: int) -> None:
    torch._dynamo.reset()
    model = tiny_model(num_corner_tokens=num_corners)
    compiled = torch.compile(model)
    for lengths in ([3, 9, 3], [5, 1, 12 - num_corners], [2, 2, 8]):
        ids = torch.stack([make_ids(lengths, num_corners, 16), make_ids(lengths[::-1], num_corners, 16)], dim=1)
        images = torch.randn(3, 32)
        found, expected = (_output_and_gradient(each, model, ids, images) for each in (compiled, model))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def _output_and_gradient(call, model: LotlipModel, ids: torch.Tensor, images: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    output = call(ids, image_embeds=images)
    (output.text_embeds * output.image_embeds[:, None]).sum().backward()
    return [output.text_embeds, *(p.grad.clone() for p in model.text_tower.parameters())]


def test_the_image_projection_and_the_bias_are_optional_parts() -> None:
    config = tiny_config()
    config.embed_dim, config.image_projection, config.logit_bias_init = 24, True, -10.0
    model = LotlipModel(config).eval()
    ids, pixels = make_ids([3, 6], 2), torch.randn(2, 3, 16, 16)
    output = model(ids, pixel_values=pixels)
    before = model.image_tower(pixel_values=pixels).last_hidden_state[:, 0]
    expected = functional.normalize(before @ model.image_projection.weight.T, dim=-1)
    torch.testing.assert_close(output.image_embeds, expected)
    torch.testing.assert_close(model(ids, image_embeds=before).image_embeds, expected)
    assert output.text_embeds.shape == (2, 1, 24)
    assert output.logit_bias.item() == -10.0
    assert tiny_model().logit_bias is None


def test_token_features_by_hand() -> None:
    config = tiny_config(num_corner_tokens=0)
    config.token_features = True
    torch.manual_seed(0)
    model = LotlipModel(config).eval()
    ids, pixels = make_ids([3, 6], 0, width=16), torch.randn(2, 3, 16, 16)
    output = model(ids, pixel_values=pixels)
    patches = model.image_tower(pixel_values=pixels).last_hidden_state[:, 1:]
    torch.testing.assert_close(output.image_embeds, functional.normalize(patches, dim=-1))
    assert output.image_embeds.shape == (2, 4, 32)
    assert output.text_embeds.shape == (2, 8, 32)
    assert output.text_keep.sum(dim=1).tolist() == [5, 8]
    norms = output.text_embeds.norm(dim=-1)
    torch.testing.assert_close(norms, output.text_keep.float())
    with pytest.raises(ModelError, match="get_text_token_features"):
        model.get_text_features(ids)
    with pytest.raises(ShapeError, match="one text an image"):
        model(ids[:, None].expand(2, 2, 16), pixel_values=pixels)


def test_the_logit_scale_is_clamped() -> None:
    model = tiny_model()
    for value, expected in ((9.0, 100.0), (-1.0, 1.0), (3.0, 20.0855)):
        with torch.no_grad():
            model.logit_scale.fill_(value)
        model.clamp_logit_scale()
        assert model.logit_scale.exp().item() == pytest.approx(expected, rel=1e-5)


def test_errors_say_what_arrived() -> None:
    model = tiny_model()
    ids, pixels = make_ids([3, 6], 2), torch.randn(2, 3, 16, 16)
    with pytest.raises(ShapeError, match="one of the two"):
        model(ids)
    with pytest.raises(ShapeError, match=r"expected \[B, 3, 16, 16\]"):
        model.get_image_features(torch.randn(2, 3, 8, 8))
    with pytest.raises(
        ShapeError, match=r"Image features \(3, 32\) do not fit input_ids \(2, 10\): expected \[2, 32\]"
    ):
        model(ids, image_embeds=torch.randn(3, 32))
    with pytest.raises(ShapeError, match=r"\(2, 31\).*expected \[2, 32\]"):
        model(ids, image_embeds=torch.randn(2, 31))
    with pytest.raises(ShapeError, match=r"expected the same \[B, L\]"):
        model(ids[0], pixel_values=pixels)


def test_contradicting_settings_are_refused() -> None:
    config = tiny_config()
    config.embed_dim = 64
    with pytest.raises(ModelError, match="image tower is 32 wide and embed_dim is 64"):
        LotlipModel(config)
    config = tiny_config()
    config.token_features = True
    with pytest.raises(ModelError, match="set corner_tokens to 0"):
        LotlipModel(config)
    config = tiny_config()
    config.token_limit = 99
    with pytest.raises(ModelError, match="16 positions"):
        LotlipModel(config)
