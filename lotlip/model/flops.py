"""Useful floating-point operations of a model, exact by arithmetic: the products of matrices that its definition asks
for, two operations a multiply-add, without padding, recomputation, or what masks hide.

Left out are norms, softmax, activations, embeddings, principal components and the optimizer: together a few
thousandths.

Symbols: n ids of a text, r rows computed of them, q rows read, P patches of an image, H width, I width of the
feed-forward part, D shared width, b pairs of one process, B pairs of all.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lotlip.errors import ModelError
from lotlip.model.config import LotlipConfig

Lengths = Sequence[int] | NDArray[Any]
ImageWork = Literal["trained", "locked", "cached"]
_NO_PATCH_TOKENS = {"vit": 1, "deit": 2, "dinov2": 1, "clip_vision_model": 1, "siglip_vision_model": 0}


@dataclass(frozen=True)
class StepFlops:
    """Of some pairs in training, by part; short texts, long texts and loss count forward and backward."""

    image_forward: float
    image_backward: float
    short_texts: float
    long_texts: float
    loss: float

    @property
    def total(self) -> float:
        return float(sum(astuple(self)))


def text_flops(config: LotlipConfig, lengths: Lengths, *, corners: bool = False) -> float:
    """Forward pass of the text tower over some texts.

    Args:
        config: of the model.
        lengths: n of each text as the processor makes it: `[CLS]`, corners and `[SEP]` count, padding does not.
        corners: read the corners, too, as of long texts in training; else the text's own feature alone, for which
            corners under the mask are left out. With `token_features` all tokens are read.

    Source: `lotlip.model.text_tower`: the last layer has queries and a dense part for the rows read alone.
    """
    text = config.text_config
    n = np.asarray(lengths, dtype=np.float64)
    if text.model_type == "clip_text_model":
        head, r, q = 0, n, np.ones_like(n)
        pairs, last_pairs = n * (n + 1) / 2, n  # a row sees those before it and itself; the last one sees all
    else:
        m, head = config.num_corner_tokens, 2 * text.hidden_size**2  # its pooler
        seen = n - m if config.corner_mask else n  # by each row: a corner sees itself and the text
        r = n if corners else seen
        q = np.full_like(n, 1 + m if corners else 1)
        pairs, last_pairs = r * seen, q * seen
    if config.token_features:
        q, last_pairs = r, pairs
    head += 2 * text.hidden_size * config.embed_dim
    width, layers = text.hidden_size, text.num_hidden_layers
    projections, feed_forward = 2 * width**2, 4 * width * text.intermediate_size
    full = (4 * projections + feed_forward) * r + 4 * width * pairs
    last = 2 * projections * r + (2 * projections + feed_forward) * q + 4 * width * last_pairs
    return float(((layers - 1) * full + last + head * q).sum())


def image_flops(vision_config: Any) -> float:
    """Forward pass of an image tower over one image.

    Raises:
        ModelError: towers of this type are not known.
    """
    config, width = vision_config, vision_config.hidden_size
    if config.model_type not in _NO_PATCH_TOKENS:
        known = ", ".join(_NO_PATCH_TOKENS)
        raise ModelError(f"FLOPs of an image tower of type {config.model_type!r} are not known; known are {known}.")
    patches = num_patches(config)
    rows = patches + _NO_PATCH_TOKENS[config.model_type]
    layer = rows * (8 * width**2 + _feed_forward(config)) + 4 * width * rows**2
    return float(_patch_flops(config) + config.num_hidden_layers * layer + _pooling(config))


def num_patches(vision_config: Any) -> int:
    """P of an image of the tower's size."""
    return int((vision_config.image_size // vision_config.patch_size) ** 2)


def step_flops(config: LotlipConfig, short: Lengths, long: Lengths, *, image: ImageWork, batch_size: int) -> StepFlops:
    """Forward and backward pass of b pairs of a batch, the share of one process.

    A backward pass is two forward passes, but for gradients that nobody needs: of pixels, of a locked tower.

    Args:
        config: of the model.
        short: n of the b short texts.
        long: n of all their long texts, [b K] in any order.
        image: `trained`; `locked`: forward alone; `cached`: features of a locked tower are there.
        batch_size: B, with whose texts the b images are compared.
    """
    b, vision = len(short), config.vision_config
    tower = 0.0 if image == "cached" else image_flops(vision)
    features = num_patches(vision) if config.token_features else 1
    projection = 2.0 * features * vision.hidden_size * config.embed_dim if config.image_projection else 0.0
    backward = projection
    if image == "trained":
        backward = 2 * (tower + projection) - _patch_flops(vision)
    slots = float(np.sum(short)) * features  # with token features every patch meets every token
    if not config.token_features:
        slots = b + len(long) * (1 + config.num_corner_tokens)
    return StepFlops(
        image_forward=b * (tower + projection),
        image_backward=b * backward,
        short_texts=3 * text_flops(config, short),
        long_texts=3 * text_flops(config, long, corners=True),
        loss=3 * 2.0 * batch_size * slots * config.embed_dim,
    )


def _feed_forward(config: Any) -> float:
    """Of one row in one layer."""
    if config.model_type != "dinov2":
        return float(4 * config.hidden_size * config.intermediate_size)
    inner = int(config.hidden_size * config.mlp_ratio)
    if config.use_swiglu_ffn:  # three matrices of two thirds of the width
        return float(6 * config.hidden_size * ((int(inner * 2 / 3) + 7) // 8 * 8))
    return float(4 * config.hidden_size * inner)


def _patch_flops(config: Any) -> float:
    inputs = config.num_channels * config.patch_size**2
    return float(2 * num_patches(config) * inputs * config.hidden_size)


def _pooling(config: Any) -> float:
    """Of SigLIP's attention pooling: one query over all patches, then a feed-forward part."""
    if config.model_type != "siglip_vision_model" or not config.vision_use_head:
        return 0.0
    width, patches = config.hidden_size, num_patches(config)
    return float(4 * width**2 * (1 + patches) + 4 * width * patches) + _feed_forward(config)
