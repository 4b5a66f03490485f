"""cdist and pdist, at every exponent, far apart and at distance zero."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import hesse
from tests.functional.references import DOUBLE, assert_values

from .judge import assert_right, assert_thrice_differentiable, pytorch_differentiates_thrice, vectors_like

EXPONENTS = (0.0, 0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, math.inf)
SMOOTH = (1.5, 2.0, 3.0, 4.0)


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def wavy(distance: Tensor) -> Tensor:
    """A sum in which every distance counts differently."""
    weights = torch.arange(1.0, distance.numel() + 1, dtype=distance.dtype).reshape(distance.shape)
    return (weights * (distance + 0.3).sin()).sum()


def test_derivatives_at_distance_zero_are_wrong_or_missing_in_pytorch() -> None:
    """Releases from 2.14 on have second derivatives, and wrong third ones where a point meets itself, as in pdist."""
    assert not pytorch_differentiates_thrice(lambda x: wavy(torch.cdist(x, x)), (points(4, 3),))
    assert not pytorch_differentiates_thrice(lambda x: wavy(F.pdist(x)), (points(4, 3),))


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.one_in(4)
def test_products_through_cdist_agree_with_differences_of_the_gradient(p: float) -> None:
    assert_right(lambda x, y: wavy(torch.cdist(x, y, p=p)), (points(2, 3), points(3, 3, seed=1)))


@pytest.mark.parametrize("p", [1.5, 2.0])
def test_batches_of_points_broadcast(p: float) -> None:
    assert_right(lambda x, y: wavy(torch.cdist(x, y, p=p)), (points(2, 1, 2, 2), points(2, 3, 2, seed=1)))


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.one_in(4)
def test_products_through_pdist_agree_with_differences_of_the_gradient(p: float) -> None:
    assert_right(lambda x: wavy(F.pdist(x, p=p)), (points(4, 3),))


@pytest.mark.parametrize("p", SMOOTH)
def test_third_derivatives_agree_with_differences_of_products(p: float) -> None:
    assert_thrice_differentiable(lambda x, y: wavy(torch.cdist(x, y, p=p)), (points(2, 3), points(2, 3, seed=1)))
    assert_thrice_differentiable(lambda x: wavy(F.pdist(x, p=p)), (points(3, 2),))


@pytest.mark.parametrize("p", EXPONENTS)
def test_a_point_and_itself_contribute_nothing(p: float) -> None:
    """The diagonal of cdist(x, x) is constant, so the Hessian is that of the pairs apart: twice pdist's."""
    x = points(4, 3)
    v = vectors_like((x,))[0]
    product = hesse.vhp(lambda x: torch.cdist(x, x, p=p).sin().sum(), x, v)[1]
    expected = hesse.vhp(lambda x: 2 * F.pdist(x, p=p).sin().sum(), x, v)[1]
    assert_values(product, expected)


@pytest.mark.parametrize("p", EXPONENTS)
def test_at_distance_zero_the_derivative_is_zero(p: float) -> None:
    x = points(1, 3)
    for func in (
        lambda x, y: (torch.cdist(x, y, p=p) + 1).sin().sum(),
        lambda x, y: (F.pdist(torch.cat((x, y)), p=p) + 1).sin().sum(),
    ):
        assert not hesse.Hessian(func, (x, x.clone())).to_dense().any()


@pytest.mark.parametrize("compute_mode", ["use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist"])
def test_the_matrix_form_for_many_points_is_right_where_points_coincide(compute_mode: str) -> None:
    """The distance that PyTorch finds there is of rounding errors, such as 3e-7, and its double backward 1e6."""
    x, y = points(30, 2) + 10, points(30, 2, seed=1) + 10
    y[:9] = x[:9]
    v = vectors_like((x, y))

    def by_hand(x: Tensor, y: Tensor) -> Tensor:
        square = (x[:, None] - y[None]).square().sum(-1)
        zero = square == 0
        return wavy(torch.where(zero, 0, torch.where(zero, 1, square).sqrt()))

    product = hesse.vhp(lambda x, y: wavy(torch.cdist(x, y, compute_mode=compute_mode)), (x, y), v)[1]
    assert_values(product, torch.autograd.functional.vhp(by_hand, (x, y), v)[1])


def test_two_points_on_a_line_have_the_closed_form() -> None:
    # The distance is √((x - y)² + h²), whose second derivative is h² / d³.
    height = 2.0
    x, y = torch.tensor([[0.5, height]], dtype=DOUBLE), torch.tensor([[2.0, 0.0]], dtype=DOUBLE)
    dense = hesse.Hessian(lambda x: torch.cdist(x, y).sum(), x).to_dense()
    assert dense[0, 0].item() == pytest.approx(height**2 / (1.5**2 + height**2) ** 1.5)


def test_points_close_together_and_far_from_the_origin_keep_their_digits() -> None:
    near = points(3, 2)
    v = vectors_like((near,))[0]
    func = lambda x: torch.cdist(x, x.flip(0)).exp().sum()  # noqa: E731  # a function in one line
    product = hesse.vhp(func, near, v)[1]
    # 2¹⁶ is added without rounding to numbers that have few digits.
    shifted = (near * 256).round().float() / 256
    product = hesse.vhp(func, shifted.double(), v)[1]
    assert_values(hesse.vhp(func, shifted + 2**10, v.float())[1].double(), product, rtol=1e-4, atol=1e-4)


def test_an_infinite_second_derivative_is_not_taken_for_a_number() -> None:
    """|t|^1.5 at t = 0: two points at a distance that share a coordinate."""
    x, y = torch.tensor([[0.0, 1.0]], dtype=DOUBLE), torch.tensor([[0.0, 3.0]], dtype=DOUBLE)
    assert not hesse.vhp(lambda x: torch.cdist(x, y, p=1.5).sum(), x, torch.ones_like(x))[1].isfinite().all()
