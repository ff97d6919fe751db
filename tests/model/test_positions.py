"""Stretched positions by hand, and Long-CLIP's own sizes."""

import pytest
import torch

from lotlip.errors import ModelError
from lotlip.model.positions import stretch_positions


def test_by_hand() -> None:
    weight = torch.tensor([[0.0], [10.0], [20.0], [40.0]])
    # 1 kept; the 3 others over 6: every half step from 10 on, then the last line on from 40.
    assert stretch_positions(weight, 7, keep=1).flatten().tolist() == [0.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0]


def test_long_clips_sizes() -> None:
    weight = torch.randn(77, 8, dtype=torch.float64)
    found = stretch_positions(weight, 248, keep=20)
    assert found.shape == (248, 8)
    assert torch.equal(found[:20], weight[:20])
    torch.testing.assert_close(found[20::4], weight[20:])
    torch.testing.assert_close(found[21:244:4], 0.75 * weight[20:-1] + 0.25 * weight[21:])
    torch.testing.assert_close(found[23:244:4], 0.25 * weight[20:-1] + 0.75 * weight[21:])
    torch.testing.assert_close(found[247], weight[76] + 0.75 * (weight[76] - weight[75]))


@pytest.mark.parametrize(("length", "keep"), [(4, 1), (3, 1), (9, 3), (9, -1)])
def test_out_of_range(length: int, keep: int) -> None:
    with pytest.raises(ModelError, match="Change token_limit or keep_positions"):
        stretch_positions(torch.zeros(4, 2), length, keep)
