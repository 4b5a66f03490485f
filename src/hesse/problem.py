"""``Problem``: a function and the point to look at it, what a problem file gives to the command."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from hesse.functional.arguments import check_point


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A scalar function :math:`f` and a point :math:`x`, whose Hessian :math:`\\nabla^2 f(x)` is asked about.

    A *problem file* is a Python file with a function ``problem()`` that returns one of these; ``hesse vhp FILE``
    takes it from there. ``problem`` may take the optional keywords ``device`` (a ``torch.device``) and ``dtype``
    (a ``torch.dtype``): then the command's ``--device`` and ``--dtype`` are passed on, and the inputs are taken
    as they come. Otherwise the command moves and casts the inputs, and only them: tensors that ``func`` captures
    stay as they are.

    Args:
        func: takes the inputs, returns a real tensor with a single element.
        inputs: a floating-point or complex tensor, or a structure of them (tuples, lists, dicts, dataclasses).
            An outermost tuple is splatted into ``func``.

    Raises:
        TypeError: ``func`` cannot be called, or something in ``inputs`` is no tensor.
        RuntimeError: a tensor in ``inputs`` is neither floating-point nor complex.
        ValueError: ``inputs`` holds no tensor.

    Example:
        >>> import torch, hesse
        >>> def problem(device=None, dtype=None):
        ...     target = torch.tensor([1.0, 2.0], device=device, dtype=dtype)
        ...     return hesse.Problem(func=lambda x: ((x - target) ** 4).sum(), inputs=torch.zeros_like(target))
        >>> at_zero = problem()
        >>> hesse.Hessian(at_zero.func, at_zero.inputs) @ torch.ones(2)
        tensor([12., 48.])
    """

    func: Callable[..., Any]
    inputs: Any

    def __post_init__(self) -> None:
        if not callable(self.func):
            raise TypeError(f"The func given to Problem must be callable but has type {type(self.func)}.")
        check_point("Problem", self.func, self.inputs)
