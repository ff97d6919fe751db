"""The key under which captions are cached: it changes with what changes captions, and with nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lotlip.captioning import captioner as captioner_module
from lotlip.captioning.backends import open_captioner
from lotlip.errors import LotlipError, ModelError, ParamsError
from tests.captioning.samples import captioner_params

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with the names of a checkpoint's files: opening a captioner reads no more than bytes."""
    folder = tmp_path / "checkpoint"
    (folder / "qformer_tokenizer").mkdir(parents=True)
    for name in (
        "config.json",
        "processor_config.json",
        "tokenizer.json",
        "qformer_tokenizer/tokenizer.json",
    ):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("card")
    return folder


def identity(checkpoint: Path | str, **changes: Any) -> str:
    return open_captioner(captioner_params(checkpoint, **changes)).identity


def test_identity_is_16_hex_digits(checkpoint: Path) -> None:
    assert len(identity(checkpoint)) == 16
    assert int(identity(checkpoint), 16) >= 0


@pytest.mark.parametrize(
    "changes",
    [{"device": "auto"}, {"batch_size": 1}, {"temperature": 0.5}, {"top_p": 0.5}, {"short_max_new_tokens": 7}],
    ids=str,
)
def test_what_cannot_change_greedy_captions_is_not_in_the_identity(checkpoint: Path, changes: dict[str, Any]) -> None:
    assert identity(checkpoint, **changes) == identity(checkpoint)


def test_the_seed_matters_to_greedy_captions_only_through_the_second_draw(checkpoint: Path) -> None:
    assert identity(checkpoint, seed=7) == identity(checkpoint)
    assert identity(checkpoint, seed=7, retry_temperature=0.5) != identity(checkpoint, retry_temperature=0.5)


def test_the_folder_may_move_and_its_card_may_change(checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "elsewhere")
    (copy / "README.md").write_text("a better card")
    assert identity(copy) == identity(checkpoint)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "Describe it"},
        {"template": "{prompt}"},
        {"template": None},
        {"dtype": "bfloat16"},
        {"max_new_tokens": 13},
        {"retry_temperature": 0.5},
        {"retry_temperature": 0.5, "top_p": 0.5},
        {"short_prompt": "Name it"},
        {"do_sample": True},
        {"do_sample": True, "temperature": 0.5},
        {"do_sample": True, "top_p": 0.5},
        {"do_sample": True, "seed": 7},
    ],
    ids=str,
)
def test_what_changes_captions_changes_the_identity(checkpoint: Path, changes: dict[str, Any]) -> None:
    others = {
        identity(checkpoint, **other)
        for other in ({}, {"do_sample": True}, {"retry_temperature": 0.5})
        if other != changes
    }
    assert identity(checkpoint, **changes) not in others


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "qformer_tokenizer/tokenizer.json"])
def test_the_checkpoints_files_are_in_the_identity(checkpoint: Path, name: str) -> None:
    before = identity(checkpoint)
    (checkpoint / name).write_bytes(b"changed")
    assert identity(checkpoint) != before


def test_the_code_version_is_in_the_identity(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(checkpoint)
    monkeypatch.setattr(captioner_module, "CODE_VERSION", captioner_module.CODE_VERSION + 1)
    assert identity(checkpoint) != before


def test_a_hub_checkpoint_is_its_commit() -> None:
    name = "llava-hf/llava-1.5-7b-hf"
    assert identity(name, revision=COMMIT) != identity(name, revision=COMMIT[::-1])


@pytest.mark.parametrize(
    ("checkpoint", "revision", "error", "message"),
    [
        ("llava-hf/llava-1.5-7b-hf", None, ParamsError, "40-digit commit"),
        ("llava-hf/llava-1.5-7b-hf", "main", ParamsError, "40-digit commit"),
        ("lotlip/sample/weights/none", None, ModelError, "folder lotlip/sample/weights/none is missing"),
        ("/no/such/folder", COMMIT, ModelError, "folder /no/such/folder is missing"),
    ],
)
def test_a_checkpoint_that_is_not_there(
    checkpoint: str, revision: str | None, error: type[LotlipError], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_captioner(captioner_params(checkpoint, revision=revision))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", r"no \*\.safetensors"),
        ("processor_config.json", "save the processor"),
        ("tokenizer.json", "no tokenizer files"),
    ],
)
def test_an_incomplete_folder_is_named_before_any_work(checkpoint: Path, name: str, message: str) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(ModelError, match=message):
        open_captioner(captioner_params(checkpoint))


def test_prompt_and_template_are_checked_when_opened(checkpoint: Path) -> None:
    with pytest.raises(ParamsError, match=r"no \{prompt\}"):
        open_captioner(captioner_params(checkpoint, template="USER: <image>"))
    with pytest.raises(ParamsError, match="holds <image>"):
        open_captioner(captioner_params(checkpoint, prompt="Describe <image>"))


def test_opening_loads_neither_torch_nor_transformers(checkpoint: Path) -> None:
    code = (
        "import sys; from tests.captioning.samples import captioner_params\n"
        "from lotlip.captioning.backends import open_captioner\n"
        "import stages.recaption\n"
        f"open_captioner(captioner_params({str(checkpoint)!r})).identity\n"
        "print(sorted({'torch', 'transformers', 'pandas', 'openai', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
