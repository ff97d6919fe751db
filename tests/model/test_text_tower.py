"""The text tower against a slow implementation and against transformers' own BERT, forward and gradient."""

import pytest
import torch

from lotlip.errors import ShapeError
from lotlip.model.text_tower import corner_attention_mask
from tests.model.tiny_parts import PAD, make_ids, slow_slots, tiny_model

# One-token texts, empty texts, and texts that fill the limit of 16 ids.
LENGTHS = {m: [1, 5, 0, 16 - m - 2, 9] for m in range(5)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_corners", range(5))
def test_slots_equal_the_slow_implementation(num_corners: int, dtype: torch.dtype) -> None:
    model = tiny_model(dtype, num_corner_tokens=num_corners)
    ids = make_ids(LENGTHS[num_corners], num_corners)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(model.text_tower.encode_slots(ids), slow_slots(model, ids), atol=tolerance, rtol=0)


@pytest.mark.parametrize("num_corners", range(5))
def test_classes_without_corners_equal_the_slow_implementation_with_them(num_corners: int) -> None:
    model = tiny_model(torch.float64, num_corner_tokens=num_corners)
    ids = make_ids(LENGTHS[num_corners], num_corners, width=16)
    torch.testing.assert_close(model.text_tower.encode_classes(ids), slow_slots(model, ids)[:, 0], atol=1e-10, rtol=0)


def test_without_the_mask_corners_take_part_in_every_forward() -> None:
    model = tiny_model(torch.float64, corner_mask=False)
    ids = make_ids([1, 5, 12], 2)
    expected = slow_slots(model, ids, corner_mask=False)
    torch.testing.assert_close(model.text_tower.encode_slots(ids), expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(model.text_tower.encode_classes(ids), expected[:, 0], atol=1e-10, rtol=0)
    assert (expected - slow_slots(model, ids)).abs().max() > 1e-3, "the mask makes a difference"


@pytest.mark.parametrize("num_corners", [0, 2, 4])
def test_gradients_equal_the_slow_implementation(num_corners: int) -> None:
    model = tiny_model(torch.float64, num_corner_tokens=num_corners)
    ids = make_ids([1, 7, 16 - num_corners - 2], num_corners)
    weights = torch.randn(3, 1 + num_corners, 32, dtype=torch.float64)

    def gradients(features: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        (features * weights).sum().backward()
        return {name: p.grad.clone() for name, p in model.text_tower.named_parameters() if p.grad is not None}

    expected = gradients(slow_slots(model, ids))
    found = gradients(model.text_tower.encode_slots(ids))
    assert found.keys() == expected.keys() == dict(model.text_tower.named_parameters()).keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-10, rtol=1e-8, msg=f"gradient of {name}")


def test_without_corners_it_is_plain_bert() -> None:
    model = tiny_model(num_corner_tokens=0)
    ids = make_ids([3, 9], 0)
    pooled = model.text_tower.bert(ids, attention_mask=(ids != PAD).long()).pooler_output
    expected = model.text_tower.projection(pooled)
    torch.testing.assert_close(model.text_tower.encode_classes(ids), expected, atol=1e-5, rtol=0)


def test_padding_and_batch_neighbours_change_nothing() -> None:
    model = tiny_model(torch.float64)
    ids = make_ids([4, 11, 1], 2, width=16)
    together = model.text_tower.encode_slots(ids)
    alone = torch.cat([model.text_tower.encode_slots(row[row != PAD][None]) for row in ids])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=0)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    model = tiny_model(torch.float64).train()
    ids = make_ids([4, 9], 2)
    model.text_tower.encode_slots(ids).square().sum().backward()
    expected = [p.grad.clone() for p in model.text_tower.parameters()]
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model.text_tower.encode_slots(ids).square().sum().backward()
    for parameter, gradient in zip(model.text_tower.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-12, rtol=0)


def test_dropout_is_on_in_training_only() -> None:
    model = tiny_model()
    for module in model.text_tower.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    ids = make_ids([6], 2)
    first, second = model.text_tower.encode_slots(ids), model.text_tower.encode_slots(ids)
    assert torch.equal(first, second)
    model.train()
    assert not torch.equal(model.text_tower.encode_slots(ids), model.text_tower.encode_slots(ids))


def test_mask_of_one_text_by_hand() -> None:
    keep = torch.tensor([[True, True, True, True, True, False]])  # [CLS] corner corner text [SEP] [PAD]
    open_ = corner_attention_mask(keep, 2, torch.float32)[0, 0] == 0
    assert open_.int().tolist() == [
        [1, 0, 0, 1, 1, 0],  # [CLS]: itself and text
        [0, 1, 0, 1, 1, 0],  # a corner: itself and text, not [CLS]
        [0, 0, 1, 1, 1, 0],
        [1, 0, 0, 1, 1, 0],  # text: [CLS] and text, never corners
        [1, 0, 0, 1, 1, 0],
        [1, 0, 0, 1, 1, 0],  # [PAD] is seen by nobody; what it sees does not matter
    ]


def test_errors_say_what_arrived() -> None:
    tower = tiny_model().text_tower
    ids = make_ids([3, 5], 2)
    with pytest.raises(ShapeError, match="limit is 16"):
        tower.encode_classes(make_ids([14], 2))
    with pytest.raises(ShapeError, match=r"lack the 2 corner tokens \(ids 40 to 41\)"):
        tower.encode_classes(make_ids([3, 5], 0))
    with pytest.raises(ShapeError, match=r"\(2, 9\).*\(2, 8\)"):
        tower.encode_slots(ids, torch.ones(2, 8))
    with pytest.raises(ShapeError, match="expected one and the same"):
        tower.encode_slots(ids[0])
