"""Weights that others released: read without running code, renamed, and loaded with every stray key named.

Weights come as safetensors, or as a `.pt` or `.bin` that is opened with `weights_only`, which runs nothing.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lotlip.errors import ModelError
from lotlip.records import read_json

State = dict[str, Tensor]
# Of a downloaded repository: one file, or the first kind of which there are parts.
_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
_PARTS = ("model-*-of-*.safetensors", "pytorch_model-*-of-*.bin")
_WANTED = {"activation": "a name, as 'gelu'", "num_corner_tokens": "a whole number from 0"}
_WRAPPERS = ("state_dict", "model")


def read_state(source: Path) -> State:
    """Tensors of a file or of a downloaded repository's folder, without the prefix `module.` of parallel training.

    Raises:
        ModelError: there is no such file, it is damaged, would run code, or holds something else than tensors.
    """
    state: State = {}
    for file in _find(source):
        state |= _read_file(file)
    return state


def _read_file(file: Path) -> State:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(file)
        else:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many unrelated types
        raise ModelError(f"{file} cannot be read as weights: {_reason(error)}") from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        raise ModelError(f"{file} holds a {type(loaded).__name__}; expected tensors by name, or them as 'state_dict'.")
    strays = [str(name) for name, value in loaded.items() if not isinstance(value, Tensor)]
    if strays or not loaded:
        raise ModelError(f"{file}: expected tensors by name, but {', '.join(strays[:5]) or 'nothing'} is in it.")
    return {str(name).removeprefix("module."): tensor for name, tensor in loaded.items()}


def read_arch(file: Path | None, known: Collection[str]) -> dict[str, Any]:
    """Sizes given by the user, which go before those read off the weights.

    Raises:
        ModelError: the file is missing or no JSON object, or has an unknown key.
    """
    if file is None:
        return {}
    record = read_json(file)
    if not isinstance(record, dict):
        raise ModelError(f"{file} holds a {type(record).__name__}; expected an object with some of {', '.join(known)}.")
    if unknown := sorted(record.keys() - set(known)):
        raise ModelError(
            f"{file} has unknown keys {', '.join(unknown)}; for these weights known are {', '.join(known)}."
        )
    for key, value in record.items():
        good = (
            isinstance(value, str)
            if key == "activation"
            else _is_size(value, least=0 if key == "num_corner_tokens" else 1)
        )
        if not good:
            raise ModelError(f"{file}: {key} is {value!r}; expected {_WANTED.get(key, 'a whole number from 1')}.")
    return record


def _is_size(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_present(state: Mapping[str, Tensor], names: Collection[str], what: str) -> None:
    """Raise ModelError naming all of `names`, from which sizes are read, that are missing."""
    if missing := [name for name in names if name not in state]:
        raise ModelError(f"The weights are not those of {what}: they lack {', '.join(missing)}.")


def count_layers(state: Mapping[str, Tensor], pattern: str) -> int:
    """1 + the highest layer number that `pattern`, with one group, finds among the names."""
    return 1 + max((int(found[1]) for name in state if (found := re.match(pattern, name))), default=-1)


def count_heads(width: int) -> int:
    """Heads of the usual 64 channels each; one where the width is no multiple of that."""
    return width // 64 if width % 64 == 0 else 1


def split_thirds(name: str, tensor: Tensor, fused: str, parts: tuple[str, str, str]) -> State:
    """A fused query-key-value weight or bias as three."""
    thirds = tensor.chunk(3)
    return {name.replace(fused, part): third.contiguous() for part, third in zip(parts, thirds, strict=True)}


def load_all(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load every tensor into its place, as float32.

    Raises:
        ModelError: keys are missing or unknown (all are listed), or a tensor has another shape.
    """
    try:
        missing, unknown = model.load_state_dict({name: x.float() for name, x in state.items()}, strict=False)
    except RuntimeError as error:
        raise ModelError(f"The weights do not fit the sizes of {what} ({error}): give others with --arch.") from None
    if missing or unknown:
        raise ModelError(
            f"The weights are not those of {what}: they lack {', '.join(sorted(missing)) or 'nothing'} and have "
            f"unknown {', '.join(sorted(unknown)) or 'nothing'}."
        )
    model.eval()


def _find(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    for name in _FILES:
        if (source / name).is_file():
            return [source / name]
    for pattern in _PARTS:
        if parts := sorted(source.glob(pattern)):
            total = int(parts[0].stem.rpartition("-")[2])
            if len(parts) != total:
                raise ModelError(f"{source} has {len(parts)} of {total} parts of its weights: download the others.")
            return parts
    raise ModelError(f"{source} is no file of weights, nor a folder with one of {', '.join((*_FILES, *_PARTS))}.")


def _reason(error: Exception) -> str:
    text = str(error)
    if "TorchScript" in text or "torch.jit" in text:
        return (
            "it is a TorchScript archive, which is a program. Open it where you trust it, and save its weights alone: "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
        )
    if "weights_only" in text or "WeightsUnpickler" in text or "Unsupported" in text:
        return "it holds more than tensors, and opening that would run code; save its state_dict alone"
    return f"{type(error).__name__}: {text.partition(chr(10))[0]}"
