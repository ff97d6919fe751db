"""Image towers: any ViT-like vision model of transformers, opened from a folder or a hub id."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.utils import cached_file

from lotlip.errors import ModelError, ShapeError
from lotlip.records import read_json
from lotlip.storage.copies import local_path


@dataclass(frozen=True)
class _Kind:
    """How one type of vision model is built, and where its features are found.

    `num_special`: tokens before the patches. `reads_class_token`: the image feature is the first of them, after the
    final norm; else it is the tower's own pooled output. `norms_patches`: the patches still lack the final norm.
    `unread`: names of parameters that no feature depends on; `pooling`: how those begin that patches do not depend on.
    """

    class_name: str
    num_special: int = 1
    reads_class_token: bool = False
    norms_patches: bool = False
    unread: tuple[str, ...] = ()
    pooling: str | None = None
    arguments: tuple[tuple[str, Any], ...] = ()


# CLIP's and DINOv2's pooled outputs are their class tokens after a norm.
_KINDS = {
    "vit": _Kind("ViTModel", reads_class_token=True, arguments=(("add_pooling_layer", False),)),
    "deit": _Kind("DeiTModel", num_special=2, reads_class_token=True, arguments=(("add_pooling_layer", False),)),
    "dinov2": _Kind("Dinov2Model", reads_class_token=True, unread=("embeddings.mask_token",)),
    "clip_vision_model": _Kind("CLIPVisionModel", norms_patches=True),
    "siglip_vision_model": _Kind("SiglipVisionModel", num_special=0, pooling="head."),
}
_PARENTS = ("clip", "siglip")


@dataclass(frozen=True)
class ImageSettings:
    """How an image becomes a tower's input: square side in pixels, mean and deviation of the channels."""

    size: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)


def build_image_tower(config: Any) -> Any:
    """A tower with fresh weights for a vision configuration.

    Raises:
        ModelError: towers of this type are not known.
    """
    kind = _kind(config.model_type)
    return getattr(transformers, kind.class_name)._from_config(config, **dict(kind.arguments))


def image_features(tower: Any, pixels_BCHW: Tensor, *, patches: bool = False) -> Tensor:
    """Features [B, H] of normalised pixels [B, 3, S, S], or of each of their P patches [B, P, H]; not of unit length.

    Raises:
        ShapeError: the pixels are not of the tower's size.
    """
    size = tower.config.image_size
    expected = (tower.config.num_channels, size, size)
    if pixels_BCHW.ndim != 4 or tuple(pixels_BCHW.shape[1:]) != expected:
        raise ShapeError(
            f"pixel_values {tuple(pixels_BCHW.shape)}: expected [B, {expected[0]}, {size}, {size}], as the "
            "model's processor makes them."
        )
    output, kind = tower(pixel_values=pixels_BCHW), _kind(tower.config.model_type)
    if patches:
        features: Tensor = output.last_hidden_state[:, kind.num_special :]
        return tower.post_layernorm(features) if kind.norms_patches else features
    features = output.last_hidden_state[:, 0] if kind.reads_class_token else output.pooler_output
    return features


def freeze_unread(tower: Any, *, patches: bool) -> None:
    """Take out of training what has no part in the features; processes that train together wait for its gradients.

    Args:
        tower: one of the known types.
        patches: whether features are those of the patches.
    """
    kind = _kind(tower.config.model_type)
    for name, parameter in tower.named_parameters():
        if name in kind.unread or (patches and kind.pooling and name.startswith(kind.pooling)):
            parameter.requires_grad_(False)


@dataclass(frozen=True)
class PretrainedImage:
    """A tower, how its images are made, and a CLIP checkpoint's projection [D, H] to the shared space."""

    tower: Any
    settings: ImageSettings
    projection: Tensor | None = None


def load_image_tower(source: str, revision: str | None = None, *, fresh: bool = False) -> PretrainedImage:
    """Open a pretrained tower and its image settings.

    Args:
        source: a folder, or a hub id; the vision half of a CLIP or SigLIP checkpoint is taken alone.
        revision: commit of a hub checkpoint.
        fresh: take the checkpoint's sizes and image settings alone, with random weights of torch's global generator.

    Raises:
        ModelError: it is missing, of an unknown type, or lacks weights.
    """
    location = check_source("image tower", source, revision)
    try:
        config = transformers.AutoConfig.from_pretrained(**location)
        part = vision_part(config)
        kind, settings = _kind(part.model_type), _image_settings(location, part.image_size)
        if fresh:
            return PretrainedImage(build_image_tower(part), settings)
        is_clip = config.model_type == "clip"
        loader = transformers.CLIPModel if is_clip else getattr(transformers, kind.class_name)
        arguments = {**location, **dict(kind.arguments), "dtype": torch.float32}
        loaded, info = loader.from_pretrained(**arguments, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"The image tower {source} cannot be opened: {error}") from error
    if info["missing_keys"]:
        raise ModelError(f"The image tower {source} lacks weights: {', '.join(sorted(info['missing_keys']))}.")
    tower = loaded.vision_model if is_clip else loaded
    projection = loaded.visual_projection.weight.detach() if is_clip else None
    return PretrainedImage(tower, settings, projection)


def vision_part(config: Any) -> Any:
    """The configuration of a checkpoint's image tower: of CLIP and SigLIP a part, else the whole.

    Raises:
        ModelError: towers of this type are not known.
    """
    part = config.vision_config if config.model_type in _PARENTS else config
    _kind(part.model_type)
    return part


def check_source(what: str, source: str, revision: str | None) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a folder, or for a hub id with its revision.

    Raises:
        ModelError: it is neither.
    """
    source = str(local_path(source))
    if Path(source).is_dir():
        return {"pretrained_model_name_or_path": source, "local_files_only": True}
    if revision is None or source.startswith((".", "/")):
        raise ModelError(
            f"The {what} {source} is not a folder here. Give an existing folder (relative to the "
            "project's top), or a hub id together with its revision (the commit)."
        )
    return {"pretrained_model_name_or_path": source, "revision": revision}


def _kind(model_type: str) -> _Kind:
    if model_type not in _KINDS:
        raise ModelError(f"An image tower of type {model_type!r} is not known; known are {', '.join(_KINDS)}.")
    return _KINDS[model_type]


def _image_settings(location: dict[str, Any], size: int) -> ImageSettings:
    # Mean and deviation come with the checkpoint; a folder without them is of the in21k family, as ours are.
    source = location["pretrained_model_name_or_path"]
    file = cached_file(
        source, "preprocessor_config.json", revision=location.get("revision"),
        _raise_exceptions_for_missing_entries=False,
    )  # fmt: skip
    record = {} if file is None else read_json(Path(file))
    default = ImageSettings(size)
    return ImageSettings(
        size, tuple(record.get("image_mean", default.mean)), tuple(record.get("image_std", default.std))
    )
