"""SigLIP's loss against hand calculations, full matrices and finite differences."""

import math

import pytest
import torch

from lotlip.losses.sigmoid import sigmoid_loss
from tests.losses import slow
from tests.losses.slow import assert_equal, unit, with_gradients

SCALE, BIAS = torch.tensor(10.0, dtype=torch.float64), torch.tensor(-4.0, dtype=torch.float64)


def test_two_pairs_by_hand() -> None:
    # logits = 10 * [[1, 0.6], [0, 0.8]] - 4 = [[6, 2], [-4, 4]]
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    text = torch.tensor([[[1.0, 0.0]], [[0.6, 0.8]]], dtype=torch.float64)
    expected = sum(math.log1p(math.exp(x)) for x in (-6, 2, -4, -4)) / 2
    loss, slots = sigmoid_loss(image, text, SCALE, BIAS)
    assert loss.item() == slots.item() == pytest.approx(expected)


def test_orthogonal_embeddings_at_the_start() -> None:
    # Every logit is the bias: B (B - 1) wrong pairs and B right ones, over B.
    image, text = torch.eye(16)[:8], torch.eye(16)[8:, None]
    loss, _ = sigmoid_loss(image, text, torch.tensor(10.0), torch.tensor(-10.0))
    assert loss.item() == pytest.approx(7 * math.log1p(math.exp(-10)) + math.log1p(math.exp(10)), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tile_rows", [1, 4, 100])
def test_tiles_of_any_size_equal_full_matrices(tile_rows: int, dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in (unit(9, 6), unit(9, 3, 6), SCALE, BIAS)]
    weights = [0.5, 2.0, 1.0]
    tile_bytes = tile_rows * 9 * inputs[0].element_size()
    found = with_gradients(lambda *x: sigmoid_loss(*x, weights, tile_bytes=tile_bytes)[0], *inputs)
    assert_equal(found, with_gradients(lambda *x: slow.sigmoid(*x, weights), *inputs))


def test_gradients_equal_finite_differences() -> None:
    inputs = (unit(4, 6), unit(4, 2, 6), SCALE.clone(), BIAS.clone())
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: sigmoid_loss(*x, [1.0, 0.5])[0], inputs)
