"""FILIP's scores and loss against hand calculations, a loop over pairs and finite differences."""

import math

import pytest
import torch

from lotlip.errors import ShapeError
from lotlip.losses.late_interaction import late_interaction_loss, late_interaction_scores
from tests.losses import slow
from tests.losses.slow import assert_equal, unit, with_gradients

KEEP = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()


def test_one_image_and_one_text_by_hand() -> None:
    patches = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    tokens = torch.tensor([[[0.8, 0.6], [0.6, -0.8], [0.0, 1.0]]])
    i2t, t2i = late_interaction_scores(patches, tokens, torch.tensor([[True, True, False]]))
    assert i2t.item() == pytest.approx((0.8 + 0.6) / 2)  # the second patch's best token, 1.0, is padding
    assert t2i.item() == pytest.approx((0.8 + 0.6) / 2)
    i2t, t2i = late_interaction_scores(patches, tokens, torch.ones(1, 3).bool())
    assert i2t.item() == pytest.approx((0.8 + 1.0) / 2)
    assert t2i.item() == pytest.approx((0.8 + 0.6 + 1.0) / 3)


def test_equal_tokens_give_the_logarithm_of_the_batch() -> None:
    tokens = torch.ones(5, 4, 4) / 2
    assert late_interaction_loss(tokens, tokens, KEEP, torch.tensor(7.0)).item() == pytest.approx(math.log(5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("block_bytes", [1, 2000, 10**9])
def test_blocks_of_any_size_equal_a_loop_over_pairs(block_bytes: int, dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in (unit(5, 3, 6), unit(5, 4, 6), torch.tensor(9.0))]

    def blocks(image, text, scale):
        return late_interaction_loss(image, text, KEEP, scale, block_bytes=block_bytes)

    expected = with_gradients(lambda image, text, scale: slow.late_interaction(image, text, KEEP, scale), *inputs)
    assert_equal(with_gradients(blocks, *inputs), expected)


def test_gradients_equal_finite_differences() -> None:
    inputs = (unit(5, 3, 6), unit(5, 4, 6), torch.tensor(9.0, dtype=torch.float64))
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda image, text, scale: late_interaction_loss(image, text, KEEP, scale), inputs)


def test_what_does_not_fit_is_refused() -> None:
    patches, tokens = torch.zeros(2, 3, 4), torch.zeros(2, 5, 4)
    keep = torch.ones(2, 5).bool()
    with pytest.raises(ShapeError, match=r"\(2, 3, 4\), tokens \(2, 5, 6\)"):
        late_interaction_scores(patches, torch.zeros(2, 5, 6), keep)
    with pytest.raises(ShapeError, match="Text 1 of 2 has no token"):
        late_interaction_scores(patches, tokens, torch.tensor([[True] * 5, [False] * 5]))
    with pytest.raises(ShapeError, match="3 images and 2 texts"):
        late_interaction_loss(torch.zeros(3, 3, 4), tokens, keep, torch.tensor(1.0))
