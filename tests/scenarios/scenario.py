"""What a scenario is: a function, where to differentiate it, and what its Hessian is there."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import finite_differences
from .flat import flat, leaves_of


@dataclass(frozen=True)
class Case:
    """A function and a point, freshly made: nothing in it is shared with another call of ``Scenario.build``.

    ``hessian`` is the closed form as a dense matrix in flat order; None asks for finite differences.
    """

    func: Callable[..., Tensor]
    inputs: Any
    hessian: Tensor | None = None


@dataclass(frozen=True)
class Reference:
    """What is expected at the point: flat, float64, from a closed form or finite differences."""

    value: Tensor
    gradient: Tensor
    hessian: Tensor
    tolerance: float
    """Relative to the size of the entries; that of the least precise leaf or of the finite differences."""

    @property
    def n(self) -> int:
        return len(self.gradient)


@dataclass(frozen=True)
class Scenario:
    """A named case. ``seed`` is what the generator is set to before any evaluation of a function that draws."""

    name: str
    make: Callable[[], Case]

    @property
    def seed(self) -> int:
        return zlib.crc32(self.name.encode()) % 2**31

    def build(self) -> Case:
        """A fresh case, the same numbers each time, leaving the global generator seeded for an evaluation."""
        torch.manual_seed(self.seed + 1)
        case = self.make()
        torch.manual_seed(self.seed)
        return case

    @functools.cached_property
    def reference(self) -> Reference:
        """Computed once a process."""
        case = self.build()
        x = flat(case.inputs)
        func, inputs = case.func, case.inputs
        exact = case.hessian is not None
        hessian = case.hessian if exact else self.differenced_hessian
        single = any(leaf.dtype in (torch.float32, torch.complex64) for leaf in leaves_of(inputs))
        return Reference(
            value=finite_differences.value_at(func, inputs, x, self.seed)[0],
            gradient=finite_differences.gradient_at(func, inputs, x, self.seed),
            hessian=hessian.double(),
            tolerance=2e-5 if single else 1e-11 if exact else 1e-8,
        )

    @functools.cached_property
    def differenced_hessian(self) -> Tensor:
        """The dense Hessian from differences of the eager gradient, also where there is a closed form."""
        case = self.build()
        return finite_differences.jacobian(
            lambda x: finite_differences.gradient_at(case.func, case.inputs, x, self.seed), flat(case.inputs)
        )

    @functools.cached_property
    def differenced_gradient(self) -> Tensor:
        """The gradient from differences of the value: independent of autograd."""
        case = self.build()
        return finite_differences.jacobian(
            lambda x: finite_differences.value_at(case.func, case.inputs, x, self.seed), flat(case.inputs)
        )[0]


def scenario(make: Callable[[], Case]) -> Scenario:
    """Decorator: the function that makes a case, as a scenario of its name."""
    return Scenario(make.__name__, make)


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers of the scenario's own seed."""
    return torch.randn(shape, dtype=dtype)


def positive(*shape: int) -> Tensor:
    """Numbers between 0.5 and 1.5: away from zero, where roots and logarithms are not smooth."""
    return 0.5 + torch.rand(shape, dtype=torch.float64)
