"""Released weights of any known kind as a `from_pretrained` folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lotlip.errors import ModelError
from lotlip.model.convert import clip, lotlip, vit
from lotlip.model.image_tower import ImageSettings
from lotlip.model.processor import LotlipProcessor
from lotlip.records import publish_folder, write_json
from lotlip.text.tokenizer import LotlipTokenizer
from lotlip.weights import read_arch, read_state

Report = dict[str, Any]
_HALF = [0.5, 0.5, 0.5]


@dataclass(frozen=True)
class _Kind:
    """A kind of released weights: what it is called, how it is told, which sizes may be given, how it is built."""

    name: str
    matches: Callable[[Mapping[str, Tensor]], bool]
    arch_keys: tuple[str, ...]
    build: Callable[[Mapping[str, Tensor], Mapping[str, Any]], Any]


_KINDS = (
    _Kind("LoTLIP (timm ViT + BERT)", lotlip.is_lotlip, lotlip.ARCH_KEYS, lotlip.from_lotlip),
    _Kind("CLIP or Long-CLIP (OpenAI's names)", clip.is_clip, clip.ARCH_KEYS, clip.from_clip),
    _Kind("timm ViT", vit.is_vit, vit.ARCH_KEYS, vit.from_vit),
)


def convert(source: Path, out: Path, arch_file: Path | None = None, tokenizer: str | None = None) -> Report:
    """Read released weights and write a folder for `from_pretrained`.

    Args:
        source: a file of weights, or a downloaded repository's folder with one.
        out: new folder: a `LotlipModel`, a transformers `CLIPModel` or `ViTModel`.
        arch_file: JSON with sizes that cannot be read off the weights, or are to replace those.
        tokenizer: vocabulary to put beside the model: a folder, or a hub id and its commit as ID@COMMIT.

    Returns:
        What was found and written.

    Raises:
        ModelError: the weights are of no known kind, have missing or unknown keys, or do not fit `arch_file` or the
            tokenizer.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"{out} is there already: name a new folder.")
    state = read_state(source)
    kind = next((kind for kind in _KINDS if kind.matches(state)), None)
    if kind is None:
        names = ", ".join(sorted(state)[:5])
        raise ModelError(
            f"{source} holds {len(state)} tensors of no kind known here ({names}, ...); expected the names of "
            f"{'; '.join(kind.name for kind in _KINDS)}."
        )
    model = kind.build(state, read_arch(arch_file, kind.arch_keys))
    with publish_folder(out) as staging:
        model.save_pretrained(staging)
        beside = _BESIDE[type(model).__name__](model, staging, tokenizer)
    left_out = sorted(name for name in state if name.startswith("head.")) if kind.name == "timm ViT" else []
    return {
        "kind": kind.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        **beside,
        **({"left_out": ", ".join(left_out)} if left_out else {}),
        "folder": str(out),
    }


def _beside_lotlip(model: Any, folder: Path, tokenizer: str | None) -> Report:
    config = model.config
    report: Report = {
        "image_size": config.vision_config.image_size,
        "corner_tokens": config.num_corner_tokens,
        "token_limit": config.token_limit,
    }
    if tokenizer is None:
        return {**report, "tokenizer": "none: give --tokenizer to get a LotlipProcessor, too"}
    name, revision = _split(tokenizer)
    # Exact: what the released code makes of a text, literal special tokens included.
    opened = LotlipTokenizer.load(
        name,
        revision=revision,
        num_corner_tokens=config.num_corner_tokens,
        token_limit=config.token_limit,
        exact=True,
    )
    _check_vocabulary(tokenizer, opened.vocab_size, config.text_config.vocab_size)
    LotlipProcessor(opened, ImageSettings(config.vision_config.image_size)).save_pretrained(folder)
    return {**report, "tokenizer": tokenizer}


def _beside_clip(model: Any, folder: Path, tokenizer: str | None) -> Report:
    from transformers import AutoTokenizer, CLIPImageProcessorPil

    config = model.config
    size = config.vision_config.image_size
    CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(
        folder
    )
    limit = config.text_config.max_position_embeddings
    report: Report = {
        "image_size": size,
        "token_limit": limit,
        "activation": f"{config.text_config.hidden_act} (not to be read off weights; --arch can say another)",
    }
    if tokenizer is None:
        return {**report, "tokenizer": "none: give --tokenizer"}
    name, revision = _split(tokenizer)
    try:
        opened = AutoTokenizer.from_pretrained(name, revision=revision or "main", local_files_only=revision is None)
    except (OSError, ValueError) as error:
        raise ModelError(f"Tokenizer {tokenizer} cannot be opened: {error}") from error
    _check_vocabulary(tokenizer, len(opened), config.text_config.vocab_size)
    opened.model_max_length = limit
    opened.save_pretrained(folder)
    return {**report, "tokenizer": tokenizer}


def _beside_vit(model: Any, folder: Path, tokenizer: str | None) -> Report:
    if tokenizer is not None:
        raise ModelError("A ViT takes no --tokenizer: leave it out.")
    size = model.config.image_size
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"height": size, "width": size},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": _HALF,
        "image_std": _HALF,
    }
    write_json(folder / "preprocessor_config.json", settings)
    return {"image_size": size}


_BESIDE: dict[str, Callable[[Any, Path, str | None], Report]] = {
    "LotlipModel": _beside_lotlip,
    "CLIPModel": _beside_clip,
    "ViTModel": _beside_vit,
}


def _split(tokenizer: str) -> tuple[str, str | None]:
    """A folder and None, or a hub id and its commit."""
    if Path(tokenizer).is_dir():
        return tokenizer, None
    name, found, revision = tokenizer.rpartition("@")
    if not found:
        raise ModelError(
            f"Tokenizer {tokenizer} is not a folder here. Give an existing folder, or a hub id and the commit to take "
            "it from as ID@COMMIT."
        )
    return name, revision


def _check_vocabulary(tokenizer: str, found: int, expected: int) -> None:
    if found != expected:
        raise ModelError(
            f"Tokenizer {tokenizer} has {found} ids (corner tokens included) and the weights know {expected}: they do "
            "not belong together."
        )
