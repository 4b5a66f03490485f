"""Polar coordinates where the radius is zero or negative: a smooth function of both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.functional.references import DOUBLE

from .judge import assert_as_written_out

RADIUS = torch.tensor([0.0, -0.7, 1.3, 0.0], dtype=DOUBLE)
ANGLE = torch.tensor([0.4, -1.1, 2.0, 0.0], dtype=DOUBLE)


def through_polar(radius: Tensor, angle: Tensor) -> Tensor:
    z = torch.polar(radius, angle)
    return (z.real**3).sum() + (z.imag.exp() * angle).sum()


def written_out(radius: Tensor, angle: Tensor) -> Tensor:
    return ((radius * angle.cos()) ** 3).sum() + ((radius * angle.sin()).exp() * angle).sum()


@pytest.mark.usefixtures("uncompiled")
def test_derivatives_are_those_of_its_parts() -> None:
    assert_as_written_out(through_polar, written_out, (RADIUS, ANGLE))


def test_pytorch_has_the_wrong_gradient_by_the_radius() -> None:
    radius = RADIUS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(torch.polar(radius, ANGLE).real.sum(), radius)
    assert not torch.allclose(gradient, ANGLE.cos())
