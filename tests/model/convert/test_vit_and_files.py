"""A bare timm ViT, and files that are not what they should be."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lotlip.errors import ModelError
from lotlip.model.convert.command import convert
from lotlip.model.image_tower import image_features, load_image_tower
from tests.model.convert.original_vit import OriginalViT


def test_a_timm_vit_becomes_an_image_tower(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = OriginalViT().eval()
    (tmp_path / "repo").mkdir()
    save_file(original.state_dict(), tmp_path / "repo/model.safetensors")
    (tmp_path / "arch.json").write_text(json.dumps({"image_heads": 2}))
    report = convert(tmp_path / "repo", tmp_path / "vit", tmp_path / "arch.json")
    assert report["left_out"] == "head.bias, head.weight"
    opened = load_image_tower(str(tmp_path / "vit"))
    assert (opened.settings.size, opened.settings.mean) == (16, (0.5, 0.5, 0.5))
    pixels = torch.randn(3, 3, 16, 16)
    expected = original.forward_features(pixels)
    tower = opened.tower.eval()
    torch.testing.assert_close(image_features(tower, pixels), expected[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(image_features(tower, pixels, patches=True), expected[:, 1:], atol=1e-5, rtol=0)


class RunsCode:
    def __reduce__(self):
        return (print, ("this must never be printed",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:'torch.load' received a zip file")
def test_files_that_are_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(name: str, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            convert(tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    (tmp_path / "code.pt").write_bytes(pickle.dumps({"state_dict": RunsCode()}))
    torch.save({"state_dict": {"a": RunsCode()}}, tmp_path / "zip_code.pt")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    torch.save({"a": torch.zeros(2), "epoch": 3}, tmp_path / "mixed.pt")
    save_file({"a.b": torch.zeros(2)}, tmp_path / "other.safetensors")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    refused("none.pt", "no file of weights")
    refused("junk.safetensors", "cannot be read as weights")
    refused("junk.pt", "cannot be read as weights")
    refused("code.pt", "would run code")
    refused("zip_code.pt", "would run code")
    refused("list.pt", "holds a list")
    refused("mixed.pt", "but epoch is in it")
    refused("other.safetensors", r"1 tensors of no kind known here \(a\.b, ...\)")
    refused("script.pt", "TorchScript archive")
    assert "never be printed" not in capsys.readouterr().out


def test_sizes_of_another_kind_are_refused(tmp_path: Path) -> None:
    save_file(OriginalViT().state_dict(), tmp_path / "vit.safetensors")
    (tmp_path / "arch.json").write_text(json.dumps({"image_head": 2}))
    with pytest.raises(ModelError, match="unknown keys image_head; for these weights known are image_heads"):
        convert(tmp_path / "vit.safetensors", tmp_path / "out", tmp_path / "arch.json")
    for value in (0, "four", True):
        (tmp_path / "arch.json").write_text(json.dumps({"image_heads": value}))
        with pytest.raises(ModelError, match=f"image_heads is {value!r}; expected a whole number from 1"):
            convert(tmp_path / "vit.safetensors", tmp_path / "out", tmp_path / "arch.json")
    with pytest.raises(ModelError, match="takes no --tokenizer"):
        convert(tmp_path / "vit.safetensors", tmp_path / "out", None, str(tmp_path))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(ModelError, match="is there already"):
        convert(tmp_path / "vit.safetensors", tmp_path / "full")
