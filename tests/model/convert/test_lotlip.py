"""The released implementation's outputs, reproduced from its weights. Fixture: tests/golden/official_tiny."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from lotlip.errors import ModelError
from lotlip.losses.contrastive import contrastive_loss
from lotlip.losses.multi_caption import multi_caption_loss
from lotlip.model.convert.command import convert
from lotlip.model.convert.lotlip import from_lotlip
from lotlip.model.modeling import LotlipModel
from lotlip.model.packing import pack
from lotlip.model.processor import LotlipProcessor
from lotlip.text.tokenizer import SPECIAL_TOKENS

FOLDER = Path(__file__).parents[2] / "golden/official_tiny"
ARCH = json.loads((FOLDER / "config.json").read_text())


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "official_state_dict.safetensors")


@pytest.fixture(scope="module")
def model(state: dict[str, torch.Tensor]) -> LotlipModel:
    return from_lotlip(state, ARCH)


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "reference.safetensors")


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.detach(), expected, atol=1e-5, rtol=0)


def test_features(model: LotlipModel, reference: dict[str, torch.Tensor]) -> None:
    assert_near(model.get_image_features(reference["image"]), reference["image_features"])
    assert_near(model.get_text_features(reference["short_ids"]), reference["short_text_features"])
    assert_near(model.get_text_features(reference["long_ids"][:, 0]), reference["long_text_features"])


def test_training_features_scale_and_losses(model: LotlipModel, reference: dict[str, torch.Tensor]) -> None:
    ids = torch.cat([reference["short_ids"][:, None], reference["long_ids"]], dim=1)
    output = model(ids, pixel_values=reference["image"])
    assert_near(output.text_embeds, reference["train_text_features"])
    assert_near(output.logit_scale.reshape(1), reference["logit_scale"])
    embeddings = (output.image_embeds, output.text_embeds, output.logit_scale)
    raw, _ = multi_caption_loss(*embeddings, weight_raw=1.0, weight_long=0.0)
    long, _ = multi_caption_loss(*embeddings, weight_raw=0.0, weight_long=1.0)
    assert_near(raw.reshape(1), reference["loss_raw_term"])
    assert_near(long.reshape(1), reference["loss_long_term"])
    short_only, _ = contrastive_loss(output.image_embeds, output.text_embeds[:, :1], output.logit_scale)
    assert_near(short_only.reshape(1), reference["loss_short_only"])


def test_hidden_states_of_class_and_text(model: LotlipModel, reference: dict[str, torch.Tensor]) -> None:
    ids, tower = reference["short_ids"], model.text_tower
    texts = pack(ids != 0)
    states = tower._run(ids, texts, None, num_corners=2)
    assert_near(states, reference["short_hidden"].flatten(0, 1)[texts.rows])


@pytest.mark.parametrize("form", ["safetensors", "wrapped.pt", "bare.pt"])
def test_the_command_writes_a_folder_with_equal_features(
    state: dict[str, torch.Tensor], reference: dict[str, torch.Tensor], form: str, tmp_path: Path
) -> None:
    source = tmp_path / f"weights.{form}"
    if form == "safetensors":
        source = FOLDER / "official_state_dict.safetensors"
    else:
        prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"state_dict": prefixed} if form == "wrapped.pt" else prefixed, source)
    report = convert(source, tmp_path / "out", FOLDER / "config.json")
    assert (report["corner_tokens"], report["token_limit"], report["image_size"]) == (2, 48, 32)
    assert "give --tokenizer" in report["tokenizer"]
    loaded = AutoModel.from_pretrained(tmp_path / "out").eval()
    assert_near(loaded.get_image_features(reference["image"]), reference["image_features"])
    assert_near(loaded.get_text_features(reference["short_ids"]), reference["short_text_features"])


def test_with_a_tokenizer_it_writes_a_processor(tmp_path: Path) -> None:
    words = [*SPECIAL_TOKENS, *(f"w{i}" for i in range(1200 - len(SPECIAL_TOKENS)))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    weights, arch = FOLDER / "official_state_dict.safetensors", FOLDER / "config.json"
    convert(weights, tmp_path / "out", arch, str(tmp_path))
    processor = LotlipProcessor.from_pretrained(tmp_path / "out")
    ids = processor(text=["w5 w6"])["input_ids"]
    assert ids.tolist() == [[2, 1200, 1201, 10, 11, 3]]
    assert processor.image_settings.size == 32
    assert LotlipModel.from_pretrained(tmp_path / "out").get_text_features(ids).shape == (1, 64)
    (tmp_path / "vocab.txt").write_text("\n".join(words[:-1]))
    with pytest.raises(ModelError, match=r"has 1201 ids .* and the weights know 1202"):
        convert(weights, tmp_path / "other", arch, str(tmp_path))
    assert not (tmp_path / "other").exists()
    with pytest.raises(ModelError, match="ID@COMMIT"):
        convert(weights, tmp_path / "other", arch, "bert-base-uncased")


def test_sizes_are_read_off_the_weights(state: dict[str, torch.Tensor]) -> None:
    given = {name: ARCH[name] for name in ("vocab_size_without_corners", "context_length", "text_heads", "image_heads")}
    assert from_lotlip(state, given).config.to_dict() == from_lotlip(state, ARCH).config.to_dict()
    config = from_lotlip(state, {"num_corner_tokens": 2}).config
    assert config.text_config.num_attention_heads == config.vision_config.num_attention_heads == 1, "64 wide"
    assert config.token_limit == 64, "its positions; the released models have 512, and a limit of 128"
    with pytest.raises(ModelError, match=r"knows 1202 ids.*give num_corner_tokens"):
        from_lotlip(state, {})


def test_missing_and_unknown_keys_are_listed(state: dict[str, torch.Tensor]) -> None:
    broken = dict(state)
    broken["text.other"] = broken.pop("text.proj.weight")
    broken["visual.trunk.blocks.0.other"] = broken.pop("visual.trunk.norm.bias")
    with pytest.raises(ModelError) as error:
        from_lotlip(broken, ARCH)
    for name in ("image_tower.layernorm.bias", "text_tower.projection.weight", "text.other", "layers.0.other"):
        assert name in str(error.value)
    with pytest.raises(ModelError, match="do not fit"):
        from_lotlip(state, {**ARCH, "text_intermediate": 256})
