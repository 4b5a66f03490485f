"""The contract functions under test, and functions to call them on, each with a name that error tests can show."""

from __future__ import annotations

import pytest
from torch import Tensor

import hesse

PRODUCTS = {"vhp": hesse.vhp, "hvp": hesse.hvp}
"""The two products with a Hessian, to which every numbered item applies alike."""

each_product = pytest.mark.parametrize("name", PRODUCTS)


def first_three(a: Tensor) -> Tensor:
    """Uses its input in part only."""
    return 2 * a.narrow(0, 0, 3).exp().sum()


def pair_sum(a: Tensor, b: Tensor) -> Tensor:
    """Couples two inputs of 3 and 4 elements, the second used in part."""
    return (a + 2 * b.narrow(0, 0, 3)).sin().sum()


def detached(a: Tensor) -> Tensor:
    """An output that requires no gradients."""
    return a.detach().sum()


def disconnected(a: Tensor) -> Tensor:
    """An output that requires gradients, but none of its input."""
    return a.long().float().requires_grad_().clone().sum()


def linear(a: Tensor) -> Tensor:
    """An output whose gradient is constant."""
    return (3 * a).sum()
