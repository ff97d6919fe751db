"""Where a captioner's checkpoint comes from: a local folder, or a hub id pinned to a commit."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lotlip.captioning.captioner import folder_fingerprint
from lotlip.errors import ModelError, ParamsError
from lotlip.storage.copies import local_path

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
COMMIT = re.compile(r"^[0-9a-f]{40}$")
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found: `name` is a folder or a hub id, `fingerprint` what its bytes are."""

    name: str
    revision: str | None
    fingerprint: Any

    @property
    def is_local(self) -> bool:
        return self.revision is None


def find_checkpoint(name: str, revision: str | None) -> Checkpoint:
    """Look a checkpoint up without loading it; a folder's files are hashed.

    Raises:
        ModelError: the folder is missing or incomplete.
        ParamsError: a hub id comes without the 40-digit commit that pins it.
    """
    name = str(local_path(name))
    folder = Path(name)
    if folder.is_dir():
        _check_folder(folder)
        return Checkpoint(name, None, folder_fingerprint(folder))
    if not HUB_ID.match(name):
        raise ModelError(
            f"Checkpoint folder {name} is missing: correct the captioner's `checkpoint` in params.yaml, or "
            "put the checkpoint there (config.json, *.safetensors, tokenizer and processor files)."
        )
    if revision is None or not COMMIT.match(revision):
        raise ParamsError(
            f"Checkpoint {name!r} is no folder here, so it is taken for a hub id; its `revision` is "
            f"{revision!r} but must be the 40-digit commit that pins its bytes."
        )
    return Checkpoint(name, revision, {"id": name, "revision": revision})


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json: it is no transformers checkpoint.")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} has no *.safetensors: convert the weights; other formats are not loaded.")
    if not any((folder / name).is_file() for name in PROCESSOR_FILES):
        raise ModelError(
            f"{folder} has neither processor_config.json nor preprocessor_config.json: save the processor "
            "there too (`processor.save_pretrained(folder)`)."
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"{folder} has no tokenizer files ({', '.join(TOKENIZER_FILES)}): copy them from the original "
            "checkpoint or save the processor there (`processor.save_pretrained(folder)`)."
        )
