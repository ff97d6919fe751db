"""Sampling whose result does not depend on how images are batched: every image has its own noise.

The Gumbel-max trick: argmax(log p + g) with independent standard Gumbel noise g is a draw from p. The noise
comes from a generator seeded by the image's pixels, so an image's text is the same alone and in any batch.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def image_seed(image: "Image", seed: int | str) -> int:
    """A 63-bit seed from the image's size and pixels and a seed or its name."""
    digest = hashlib.sha256(f"{seed} {image.size} {image.mode} ".encode() + image.tobytes()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class GumbelSampler:
    """A logits processor for greedy generation that turns its argmax into a draw from the top-p distribution.

    Args:
        seeds: one seed a row of the batch.
        temperature: divides the logits, > 0.
        top_p: the smallest set of tokens with at least this probability stays, 0 < top_p <= 1.

    Source: Gumbel-max trick, arXiv:1411.0030; nucleus sampling, arXiv:1904.09751.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        import torch

        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature = temperature
        self._top_p = top_p

    def __call__(self, input_ids: Any, scores: "Tensor") -> "Tensor":
        """Perturbed logits, float32 [B, V], for logits [B, V]; `input_ids` is not looked at."""
        import torch

        scores = scores.float() / self._temperature
        if self._top_p < 1.0:
            scores = keep_top_p(scores, self._top_p)
        noise = torch.stack([torch.empty(scores.shape[-1]).exponential_(generator=rng) for rng in self._generators])
        return scores - noise.log().to(scores.device)


def keep_top_p(scores: "Tensor", top_p: float) -> "Tensor":
    """Logits [B, V] with -inf outside the smallest set of tokens that holds `top_p` of the probability."""
    ordered, order = scores.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(-1)
    is_outside = probabilities.cumsum(-1) - probabilities >= top_p
    return scores.masked_fill(is_outside.scatter(-1, order, is_outside), float("-inf"))
