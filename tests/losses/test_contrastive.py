"""Losses against hand calculations and closed forms, and their gradients against finite differences."""

import math

import pytest
import torch
from torch.nn import functional

from lotlip.errors import ParamsError, ShapeError
from lotlip.losses.contrastive import contrastive_loss_per_slot
from lotlip.losses.multi_caption import multi_caption_loss


def unit(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def test_two_pairs_by_hand() -> None:
    # logits = 2 * [[1, 0.6], [0, 0.8]] between images i (rows) and texts j
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    text = torch.tensor([[[1.0, 0.0]], [[0.6, 0.8]]], dtype=torch.float64)
    image_to_text = (math.log1p(math.exp(1.2 - 2)) + math.log1p(math.exp(0 - 1.6))) / 2
    text_to_image = (math.log1p(math.exp(0 - 2)) + math.log1p(math.exp(1.2 - 1.6))) / 2
    loss = contrastive_loss_per_slot(image, text, torch.tensor(2.0, dtype=torch.float64))
    assert loss.tolist() == pytest.approx([(image_to_text + text_to_image) / 2])


def test_equal_embeddings_give_the_logarithm_of_the_batch() -> None:
    image = torch.ones(7, 4) / 2
    loss = contrastive_loss_per_slot(image, image[:, None].expand(7, 3, 4), torch.tensor(10.0))
    assert loss.tolist() == pytest.approx([math.log(7)] * 3)


def test_slots_do_not_meet() -> None:
    image, text, scale = unit(5, 8), unit(5, 3, 8), torch.tensor(4.0, dtype=torch.float64)
    together = contrastive_loss_per_slot(image, text, scale)
    for slot in range(3):
        alone = contrastive_loss_per_slot(image, text[:, slot : slot + 1], scale)
        torch.testing.assert_close(together[slot], alone[0])


def test_weights_and_average_over_slots() -> None:
    image, text, scale = unit(5, 8), unit(5, 4, 8), torch.tensor(4.0, dtype=torch.float64)
    slots = contrastive_loss_per_slot(image, text, scale).tolist()
    loss, per_slot = multi_caption_loss(image, text, scale, weight_raw=2.0, weight_long=0.5)
    assert loss.item() == pytest.approx((2.0 * slots[0] + 0.5 * sum(slots[1:])) / 4)
    assert per_slot.tolist() == pytest.approx(slots)


def test_gradients() -> None:
    inputs = (unit(4, 6), unit(4, 3, 6), torch.tensor(3.0, dtype=torch.float64))
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: multi_caption_loss(*x, weight_raw=1.5, weight_long=0.5)[0], inputs)


@pytest.mark.parametrize(
    ("image", "text"), [((4, 6), (4, 6)), ((4, 6), (5, 1, 6)), ((4, 6), (4, 1, 7)), ((4, 6), (4, 0, 6))]
)
def test_wrong_shapes(image: tuple[int, ...], text: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"expected \[B, N, D\]"):
        contrastive_loss_per_slot(torch.zeros(image), torch.zeros(text), torch.tensor(1.0))


@pytest.mark.parametrize(("raw", "long", "slots"), [(0.0, 0.0, 3), (0.0, 1.0, 1), (-1.0, 1.0, 3)])
def test_weights_that_train_nothing(raw: float, long: float, slots: int) -> None:
    with pytest.raises(ParamsError, match="weight_raw"):
        multi_caption_loss(unit(4, 6), unit(4, slots, 6), torch.tensor(1.0), weight_raw=raw, weight_long=long)
