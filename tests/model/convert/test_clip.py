"""OpenAI's, open_clip's and Long-CLIP's weights give transformers' CLIP the original's features."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from lotlip.errors import ModelError
from lotlip.model.convert.command import convert
from tests.model.convert.original_clip import OriginalClip

HEADS = {"text_heads": 2, "image_heads": 2}


def write(folder: Path, original: nn.Module, arch: dict[str, object], prefix: str = "") -> tuple[Path, Path]:
    state = original.state_dict()
    text = ("transformer.", "token_embedding", "positional_embedding", "ln_final", "text_projection")
    named = {f"{prefix}{name}" if name.startswith(text) else name: x.half() for name, x in state.items()}
    torch.save({**named, "context_length": torch.tensor(12)}, folder / "clip.pt")
    (folder / "arch.json").write_text(json.dumps(arch))
    original.load_state_dict({name: x.half().float() for name, x in state.items()})
    return folder / "clip.pt", folder / "arch.json"


@pytest.mark.parametrize("kind", ["openai", "open_clip", "long_clip"])
def test_features_equal_the_originals(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = OriginalClip(
        positions=248 if kind == "long_clip" else 12,
        long=kind == "long_clip",
        activation=nn.GELU() if kind == "open_clip" else None,
    ).eval()
    arch = {**HEADS, **({"activation": "gelu"} if kind == "open_clip" else {})}
    source, arch_file = write(tmp_path, original, arch, prefix="text." if kind == "open_clip" else "")
    report = convert(source, tmp_path / "out", arch_file)
    assert report["token_limit"] == (248 if kind == "long_clip" else 12)
    model = CLIPModel.from_pretrained(tmp_path / "out").eval()
    pixels = torch.randn(2, 3, 16, 16)
    length = 60 if kind == "long_clip" else 12
    ids = torch.randint(1, 48, (2, length))
    ids[:, 0] = 48
    ids[0, 7], ids[1, -1] = 49, 49
    ids[0, 8:] = 0
    output = model(input_ids=ids, pixel_values=pixels)
    image, text = original.encode_image(pixels), original.encode_text(ids)
    torch.testing.assert_close(output.image_embeds, functional.normalize(image, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.text_embeds, functional.normalize(text, dim=-1), atol=1e-5, rtol=0)
    assert model.logit_scale.item() == 3.0
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert processor.crop_size["height"] == 16


def test_a_tokenizer_is_put_beside_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vocabulary = {chr(97 + i): i for i in range(24)} | {f"{chr(97 + i)}</w>": 24 + i for i in range(24)}
    vocabulary |= {"<|startoftext|>": 48, "<|endoftext|>": 49}
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    source, arch = write(tmp_path, OriginalClip(), HEADS)
    convert(source, tmp_path / "out", arch, str(folder))
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")(["ab", "c"], padding=True)["input_ids"]
    assert ids == [[48, 0, 25, 49], [48, 26, 49, 49]]
    CLIPModel.from_pretrained(tmp_path / "out")(input_ids=torch.tensor(ids), pixel_values=torch.zeros(2, 3, 16, 16))


def test_what_is_no_clip_with_a_vit(tmp_path: Path) -> None:
    state = OriginalClip().state_dict()
    for name, change, message in (
        ("missing", {"ln_final.bias": None}, r"lack text_model\.final_layer_norm\.bias and have unknown nothing"),
        ("sized", {"text_projection": None}, "they lack text_projection"),
        ("unknown", {"visual.other": torch.zeros(1)}, "have unknown visual.other"),
        ("resnet", {"visual.class_embedding": None}, "not a ViT"),
    ):
        changed = {key: x for key, x in {**state, **change}.items() if x is not None}
        torch.save(changed, tmp_path / f"{name}.pt")
        (tmp_path / "arch.json").write_text(json.dumps(HEADS))
        with pytest.raises(ModelError, match=message):
            convert(tmp_path / f"{name}.pt", tmp_path / "out", tmp_path / "arch.json")
        assert not (tmp_path / "out").exists()
