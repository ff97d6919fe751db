"""Open a model for evaluation, whoever trained it: a folder, or a hub id pinned to a commit."""

import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lotlip.errors import DataError, ModelError
from lotlip.evaluation.encoders import SIGLIP, BatchEncoder, LotlipEncoder, TransformersEncoder
from lotlip.records import read_json
from lotlip.storage.copies import local_path

OURS = "lotlip"
TRANSFORMERS = ("clip", *SIGLIP, "align")
_TOKENIZER = "tokenizer (tokenizer.json, or vocab.json and merges.txt)"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
_IMAGE_SETTINGS = "image settings (preprocessor_config.json)"


@dataclass(frozen=True)
class _Source:
    """A folder, or a hub id and its commit."""

    name: str
    revision: str | None

    @property
    def is_folder(self) -> bool:
        return self.revision is None

    @property
    def arguments(self) -> dict[str, Any]:
        """Of `from_pretrained`."""
        return {"revision": self.revision, "local_files_only": self.is_folder, "trust_remote_code": False}


def open_encoder(model: str | Path, batch_size: int, device: str, revision: str | None = None) -> BatchEncoder:
    """Load a model with its tokenizer and image processor, in float32.

    Args:
        model: a folder that training or `lotlip convert` wrote, or a folder or hub id of transformers' CLIP, SigLIP,
            SigLIP 2 or ALIGN.
        batch_size: images or texts embedded at once.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        revision: commit of a hub id, 40 digits; a folder has none.

    Raises:
        ModelError: there is no such model, a folder has a revision, the model is of another type, or weights, tokenizer
            or image settings are missing.
    """
    source = _locate(model, revision)
    model_type = _model_type(source)
    # Weights as .bin hold nothing but tensors or are refused; asked for from the hub, transformers would besides have
    # a service there convert them.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")
    if model_type == OURS:
        return _open_ours(source, batch_size, device)
    if model_type in TRANSFORMERS:
        return _open_transformers(source, batch_size, device)
    raise ModelError(
        f"{source.name} holds a checkpoint of type {model_type!r}; expected a model of images and texts, of type "
        f"{', '.join((OURS, *TRANSFORMERS))}. A tower alone cannot be evaluated; released weights of Long-CLIP and "
        "LoTLIP become such a folder by `lotlip convert`."
    )


def _locate(model: str | Path, revision: str | None) -> _Source:
    folder = local_path(model)
    if folder.is_dir():
        if revision is not None:
            raise ModelError(
                f"{model} is a folder here, and revision {revision!r} belongs to a hub id: leave it out, or give an id."
            )
        if (folder / "config.json").is_file():
            return _Source(str(folder), None)
        raise ModelError(
            f"{model} holds no model (no config.json): {_train_it(folder)}give the folder that training, "
            "`lotlip convert` or `save_pretrained` wrote."
        )
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ModelError(
            f"{model} is no folder here: {_train_it(folder)}correct the path; a hub id needs its commit, 40 digits, as "
            f"revision (`--revision`), which is {revision!r}."
        )
    return _Source(str(model), revision)


def _train_it(folder: Path, force: str = "") -> str:
    """Advice for what would be a model of this project."""
    return f"run `dvc repro {force}train@{folder.name}`, or " if folder.parent.name == "models" else ""


def _model_type(source: _Source) -> str | None:
    if source.is_folder:
        path = Path(source.name) / "config.json"
        try:
            record = read_json(path)
        except DataError:
            record = None
        if not isinstance(record, dict):
            raise ModelError(f"{path} is no JSON object: write the model's folder again, or fetch it again.")
    else:
        from transformers import PreTrainedConfig

        try:
            record, _ = PreTrainedConfig.get_config_dict(source.name, revision=source.revision)
        except (OSError, ValueError) as error:
            raise _unopened(source, error, "check the id, the commit and the network, or give a folder") from error
    found: str | None = record.get("model_type")
    return found


def _open_ours(source: _Source, batch_size: int, device: str) -> LotlipEncoder:
    # Imported here: transformers takes seconds, and a missing folder should be said at once.
    from lotlip.model.devices import open_device
    from lotlip.model.modeling import LotlipModel
    from lotlip.model.processor import LotlipProcessor

    model = _load(LotlipModel, source, f"{_train_it(Path(source.name), '-f ')}convert or fetch it again")
    try:
        processor = LotlipProcessor.from_pretrained(source.name, source.revision)
    except (DataError, ModelError) as error:
        raise ModelError(
            f"{source.name} has no tokenizer and image settings that can be read: {error} After `lotlip convert` "
            "without --tokenizer, convert again with it."
        ) from error
    return LotlipEncoder(model, processor, batch_size, open_device(device))


def _open_transformers(source: _Source, batch_size: int, device: str) -> TransformersEncoder:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    from lotlip.model.devices import open_device

    model = _load(AutoModel, source, "download or convert it again")
    if not any(_has(source, file) for file in _TOKENIZER_FILES):  # transformers would make an empty one up
        raise _lacks(source, _TOKENIZER)
    tokenizer = _load_part(AutoTokenizer, source, _TOKENIZER)
    # The same pixels whether or not torchvision is there.
    images = _load_part(AutoImageProcessor, source, _IMAGE_SETTINGS, backend="pil")
    if tokenizer.pad_token_id is None or len(tokenizer) > model.config.text_config.vocab_size:
        raise ModelError(
            f"The tokenizer of {source.name} has {len(tokenizer)} ids and padding {tokenizer.pad_token!r}; its model "
            f"knows {model.config.text_config.vocab_size} ids: give it the tokenizer that belongs to it."
        )
    encoder = TransformersEncoder(model, tokenizer, images, batch_size, open_device(device))
    try:
        encoder.images([Image.new("RGB", (64, 64))])
    except (DataError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{source.name} does not take the images that its own settings make ({_first_line(error)}): give it the "
            "preprocessor_config.json that belongs to it."
        ) from error
    return encoder


def _load(kind: Any, source: _Source, again: str) -> Any:
    from safetensors import SafetensorError

    try:
        model, info = kind.from_pretrained(
            source.name, dtype=torch.float32, weights_only=True, output_loading_info=True, **source.arguments
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError, pickle.UnpicklingError) as error:
        raise _unopened(source, error, again) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(f"{source.name} lacks {len(missing)} weights ({', '.join(missing[:3])}): {again}.")
    return model


def _load_part(kind: Any, source: _Source, what: str, **settings: Any) -> Any:
    try:
        return kind.from_pretrained(source.name, **source.arguments, **settings)
    except ImportError as error:
        reason = _first_line(error).partition(". ")[0]
        raise ModelError(f"{source.name}, {what}: {reason}: install it with pip.") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _lacks(source, what, error) from error


def _has(source: _Source, file: str) -> bool:
    from transformers.utils import cached_file

    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    return cached_file(source.name, file, revision=source.revision, **quiet) is not None


def _lacks(source: _Source, what: str, error: Exception | None = None) -> ModelError:
    why = "" if error is None else f" that can be read ({_first_line(error)})"
    return ModelError(
        f"{source.name} has no {what}{why}: put it there, as `save_pretrained` writes it; `lotlip convert` does with "
        "--tokenizer."
    )


def _unopened(source: _Source, error: Exception, remedy: str) -> ModelError:
    return ModelError(f"{source.name} cannot be opened ({_first_line(error)}): {remedy}.")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
