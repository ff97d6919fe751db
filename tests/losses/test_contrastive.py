"""Softmax losses against hand calculations, closed forms, full matrices and finite differences."""

import math

import pytest
import torch

from lotlip.errors import ParamsError, ShapeError
from lotlip.losses.contrastive import contrastive_loss
from lotlip.losses.multi_caption import multi_caption_loss
from tests.losses import slow
from tests.losses.slow import assert_equal, unit, with_gradients

SCALE = torch.tensor(14.0, dtype=torch.float64)


def test_two_pairs_by_hand() -> None:
    # logits = 2 * [[1, 0.6], [0, 0.8]] between images i (rows) and texts j
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    text = torch.tensor([[[1.0, 0.0]], [[0.6, 0.8]]], dtype=torch.float64)
    image_to_text = (math.log1p(math.exp(1.2 - 2)) + math.log1p(math.exp(0 - 1.6))) / 2
    text_to_image = (math.log1p(math.exp(0 - 2)) + math.log1p(math.exp(1.2 - 1.6))) / 2
    loss, slots = contrastive_loss(image, text, torch.tensor(2.0, dtype=torch.float64))
    assert loss.item() == pytest.approx((image_to_text + text_to_image) / 2)
    assert slots.tolist() == pytest.approx([loss.item()])


def test_equal_embeddings_give_the_logarithm_of_the_batch() -> None:
    image = torch.ones(7, 4) / 2
    _, slots = contrastive_loss(image, image[:, None].expand(7, 3, 4), torch.tensor(10.0), [1.0] * 3)
    assert slots.tolist() == pytest.approx([math.log(7)] * 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tile_rows", [1, 3, 9, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_tiles_of_any_size_equal_full_matrices(tile_rows: int, smoothing: float, dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in (unit(9, 6), unit(9, 4, 6), SCALE)]
    weights = [0.5, 0.0, 2.0, 1.0]
    tile_bytes = tile_rows * 9 * inputs[0].element_size()

    def tiled(image, text, scale):
        return contrastive_loss(image, text, scale, weights, label_smoothing=smoothing, tile_bytes=tile_bytes)[0]

    expected = with_gradients(lambda *x: slow.contrastive(*x, weights, smoothing), *inputs)
    assert_equal(with_gradients(tiled, *inputs), expected)


def test_scores_that_overflow_without_care() -> None:
    image, text = unit(6, 4), unit(6, 2, 4)
    scale = torch.tensor(2000.0, dtype=torch.float64)
    found = with_gradients(lambda *x: contrastive_loss(*x, [1.0, 1.0], tile_bytes=100)[0], image, text, scale)
    assert_equal(found, with_gradients(lambda *x: slow.contrastive(*x, [1.0, 1.0]), image, text, scale))


def test_weights_and_average_over_slots() -> None:
    image, text, scale = unit(5, 8), unit(5, 4, 8), torch.tensor(4.0, dtype=torch.float64)
    slots = [slow.contrastive(image, text[:, n : n + 1], scale, [1.0]).item() for n in range(4)]
    loss, per_slot = multi_caption_loss(image, text, scale, weight_raw=2.0, weight_long=0.5)
    assert loss.item() == pytest.approx((2.0 * slots[0] + 0.5 * sum(slots[1:])) / 4)
    assert per_slot.tolist() == pytest.approx(slots)


def test_gradients_equal_finite_differences() -> None:
    inputs = (unit(4, 6), unit(4, 3, 6), torch.tensor(3.0, dtype=torch.float64))
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: multi_caption_loss(*x, weight_raw=1.5, weight_long=0.5)[0], inputs)


def test_the_gradient_scales_with_what_comes_from_above() -> None:
    image = unit(5, 8).requires_grad_()
    loss, slots = multi_caption_loss(image, unit(5, 2, 8), SCALE)
    assert not slots.requires_grad
    (grad,) = torch.autograd.grad(loss, image, retain_graph=True)
    (tripled,) = torch.autograd.grad(3 * loss, image)
    torch.testing.assert_close(tripled, 3 * grad)


def test_half_precision_embeddings_are_scored_in_single_precision() -> None:
    image, text = unit(64, 8).bfloat16().requires_grad_(), unit(64, 2, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = multi_caption_loss(image, text, torch.tensor(50.0))
    expected = slow.contrastive(image.double(), text.double(), torch.tensor(50.0).double(), [0.5, 0.5])
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert image.grad.dtype == torch.bfloat16


def test_only_one_tile_of_logits_exists_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = []
    plain = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *x: largest.append(plain(*x)) or largest[-1])
    image, text = unit(64, 8).requires_grad_(), unit(64, 3, 8)
    contrastive_loss(image, text, SCALE, [1.0] * 3, tile_bytes=16 * 64 * 8)[0].backward()
    assert [tuple(each.shape) for each in largest] == [(16, 64)] * (4 * 3 * 2)  # 4 tiles, 3 slots, 2 passes


@pytest.mark.parametrize(
    ("image", "text"), [((4, 6), (4, 6)), ((4, 6), (5, 1, 6)), ((4, 6), (4, 1, 7)), ((4, 6), (4, 0, 6))]
)
def test_wrong_shapes(image: tuple[int, ...], text: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"expected \[B, N, D\]"):
        contrastive_loss(torch.zeros(image), torch.zeros(text), torch.tensor(1.0))


@pytest.mark.parametrize(("raw", "long", "slots"), [(0.0, 0.0, 3), (0.0, 1.0, 1), (-1.0, 1.0, 3)])
def test_weights_that_train_nothing(raw: float, long: float, slots: int) -> None:
    with pytest.raises(ParamsError, match="weight_raw"):
        multi_caption_loss(unit(4, 6), unit(4, slots, 6), torch.tensor(1.0), weight_raw=raw, weight_long=long)
