"""Right-hand sides near one, and the residuals of answers."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from hesse._base import pages
from hesse._solvers import columns as blocks
from hesse._solvers.run import Products


@dataclasses.dataclass(frozen=True)
class Sides:
    """Right-hand sides in their units and the residuals at which they are solved."""

    products: Products
    B: Tensor
    units: Tensor
    targets: Tensor

    def residuals(self, index: Tensor, X: Tensor | None) -> Tensor:
        """B − A·X of some columns, in memory of their own; of no X without a product."""
        R = blocks.ldexp(blocks.select(self.B, index), -self.units[index])
        if X is not None:
            pages.trim()
            R.sub_(self.products.multiply(X))
        return R
