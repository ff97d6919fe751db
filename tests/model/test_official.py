"""The released implementation's outputs, reproduced from its weights. Fixture: tests/golden/official_tiny."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lotlip.errors import ModelError
from lotlip.losses.contrastive import contrastive_loss
from lotlip.losses.multi_caption import multi_caption_loss
from lotlip.model.modeling import LotlipModel
from lotlip.model.official import from_official
from lotlip.model.packing import pack

FOLDER = Path(__file__).parents[1] / "golden/official_tiny"
ARCH = json.loads((FOLDER / "config.json").read_text())


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "official_state_dict.safetensors")


@pytest.fixture(scope="module")
def model(state: dict[str, torch.Tensor]) -> LotlipModel:
    return from_official({f"module.{name}": tensor for name, tensor in state.items()}, ARCH)


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "reference.safetensors")


def near(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.detach(), expected, atol=1e-5, rtol=0)


def test_features(model: LotlipModel, reference: dict[str, torch.Tensor]) -> None:
    near(model.get_image_features(reference["image"]), reference["image_features"])
    near(model.get_text_features(reference["short_ids"]), reference["short_text_features"])
    near(model.get_text_features(reference["long_ids"][:, 0]), reference["long_text_features"])


def test_training_features_scale_and_losses(model: LotlipModel, reference: dict[str, torch.Tensor]) -> None:
    ids = torch.cat([reference["short_ids"][:, None], reference["long_ids"]], dim=1)
    output = model(ids, pixel_values=reference["image"])
    near(output.text_embeds, reference["train_text_features"])
    near(output.logit_scale.reshape(1), reference["logit_scale"])
    embeddings = (output.image_embeds, output.text_embeds, output.logit_scale)
    raw, _ = multi_caption_loss(*embeddings, weight_raw=1.0, weight_long=0.0)
    long, _ = multi_caption_loss(*embeddings, weight_raw=0.0, weight_long=1.0)
    near(raw.reshape(1), reference["loss_raw_term"])
    near(long.reshape(1), reference["loss_long_term"])
    short_only, _ = contrastive_loss(output.image_embeds, output.text_embeds[:, :1], output.logit_scale)
    near(short_only.reshape(1), reference["loss_short_only"])


def test_hidden_states_of_class_and_text(model: LotlipModel, reference: dict[str, torch.Tensor]) -> None:
    ids, tower = reference["short_ids"], model.text_tower
    texts = pack(ids != 0)
    states = tower._run(ids, texts, None, num_corners=2)
    near(states, reference["short_hidden"].flatten(0, 1)[texts.rows])


def test_missing_and_unknown_keys_are_listed(state: dict[str, torch.Tensor]) -> None:
    broken = dict(state)
    broken["text.other"] = broken.pop("text.proj.weight")
    with pytest.raises(ModelError, match=r"lack text_tower\.projection\.weight and have unknown text\.other"):
        from_official(broken, ARCH)
    with pytest.raises(ModelError, match="do not fit"):
        from_official(state, {**ARCH, "hidden_size": 128})
