"""How far from linear the products of an operator are: the noise below which no residual falls."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hesse._solvers.run import Products

# Products that are looked at, and vectors that are held meanwhile beside the one given.
PRODUCTS = 4
VECTORS = 3
# Up to so many roundings of the vectors' dtype are rounding; products in bfloat16 or TF32 are far beyond.
ROUNDINGS = 100
# A residual that small, in units of the noise, is noise: a residual is made of several products.
FACTOR = 2
SEED = 20_260_103


@dataclasses.dataclass(frozen=True)
class Noise:
    """Of the products with one operator.

    Attributes:
        size: norm of the error of a product with a vector of norm one, in the question's units; zero where it is no
            more than the rounding of the vectors' dtype.
        level: the same relative to the product, or zero.
    """

    size: float
    level: float


def is_likely(products: Products) -> bool:
    """Whether the operator is known to compute in less than the dtype of its vectors."""
    operator = products.operator
    found = torch.finfo(operator._precision()).eps > torch.finfo(operator.dtype).eps
    if operator.ranks is None:
        return found
    # A rank knows how its own part of the data is computed.
    return bool(operator.ranks.largest(torch.tensor(found, device="cpu"), "the precision of products"))


def measure(products: Products, u: Tensor) -> Noise:
    """A(u + v) against Au + Av for a random v, and Au against itself: four products, out of the budget.

    Args:
        products: the question's products.
        u: one of its vectors, (n, 1), not zero.
    """
    operator = products.operator
    length = float(products.norms(u))
    v = operator.signs(1, SEED).to(u.device, u.dtype)
    v.mul_(length / float(products.norms(v)))
    total = products.multiply(u).clone()
    largest = float(products.norms(total))
    # The same product again, on an accelerator in another order.
    apart = float(products.norms(products.multiply(u) - total))
    image = products.multiply(v)
    largest = max(largest, float(products.norms(image)))
    total.add_(image)
    del image
    error = max(apart, float(products.norms(total.sub_(products.multiply(v.add_(u))))))
    if error <= ROUNDINGS * torch.finfo(u.dtype).eps * largest:
        return Noise(0.0, 0.0)
    return Noise(error / length, error / largest)


def said(level: float | None) -> list[tuple[str, str]]:
    """A line of a table."""
    return [("noise", f"products are linear to {level:.1e}")] if level else []
