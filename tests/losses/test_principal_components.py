"""The principal part of image features against closed forms and an eigendecomposition."""

import pytest
import torch

from lotlip.errors import ShapeError
from lotlip.losses.principal_components import principal_part
from tests.losses.slow import unit


def test_points_on_a_plane_lose_what_leaves_it() -> None:
    torch.manual_seed(0)
    plane = torch.randn(50, 2, dtype=torch.float64) * torch.tensor([5.0, 3.0])
    height = torch.full((50, 1), 7.0).double()
    noise = 0.1 * torch.randn(50, 1, dtype=torch.float64)
    points = torch.cat([plane, height + noise], dim=1)
    found = principal_part(points, 2)
    assert (found - points).abs().max() < 0.4
    assert torch.linalg.matrix_rank(found - found.mean(0), atol=1e-8) == 2
    torch.testing.assert_close(found.mean(0), points.mean(0))


def test_it_equals_the_eigenvectors_of_the_covariance() -> None:
    x = unit(40, 12)
    centred = x - x.mean(0)
    vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -5:]
    torch.testing.assert_close(principal_part(x, 5), x.mean(0) + centred @ vectors @ vectors.T)


def test_enough_components_change_nothing() -> None:
    assert torch.equal(principal_part(unit(6, 12), 6), unit(6, 12))
    assert torch.equal(principal_part(unit(40, 12), 32), unit(40, 12))


def test_the_gradient_is_that_of_a_constant_projection() -> None:
    x = unit(20, 8).requires_grad_()
    weights = unit(20, 8)
    (principal_part(x, 3) * weights).sum().backward()
    centred = (x - x.mean(0)).detach()
    basis = torch.linalg.svd(centred, full_matrices=False).Vh[:3].T
    expected = weights.mean(0) + (weights - weights.mean(0)) @ basis @ basis.T
    torch.testing.assert_close(x.grad, expected)


def test_nan_stays_to_be_seen() -> None:
    x = unit(20, 8)
    x[3, 2] = float("nan")
    assert principal_part(x, 3).isnan().any()


def test_wrong_input() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 3, 4\) and 5 components"):
        principal_part(torch.zeros(2, 3, 4), 5)
    with pytest.raises(ShapeError, match="0 components"):
        principal_part(torch.zeros(2, 3), 0)
