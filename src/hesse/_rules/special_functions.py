"""Bessel and Airy functions and orthogonal polynomials: PyTorch has no derivatives of them, and here that is said.

They cut their results off from their arguments without a word, as if they were constants. Where a release of PyTorch
differentiates one of them, nothing is done here.

Source: https://docs.pytorch.org/docs/stable/special.html
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hesse._rules.scope import inside_transform, intercept

_POLYNOMIALS = (
    *[f"{kind}chebyshev_polynomial_{letter}" for kind in ("", "shifted_") for letter in "tuvw"],
    *("hermite_polynomial_h", "hermite_polynomial_he", "laguerre_polynomial_l", "legendre_polynomial_p"),
)
NAMES = (
    *("airy_ai", "bessel_j0", "bessel_j1", "bessel_y0", "bessel_y1", "spherical_bessel_j0"),
    *("modified_bessel_i0", "modified_bessel_i1", "modified_bessel_k0", "modified_bessel_k1"),
    *("scaled_modified_bessel_k0", "scaled_modified_bessel_k1", *_POLYNOMIALS),
)
"""Their names in torch.special."""


class _Underivable(torch.autograd.Function):
    """What an operator has given, connected to its arguments by a derivative that is refused."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, result: Tensor, *arguments: Any) -> Tensor:
        return result.view_as(result)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.operator = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(f"derivative for {ctx.operator} is not implemented")

    jvp = backward


def _is_differentiated(operator: Any) -> bool:
    arguments = [
        torch.ones((), requires_grad=True, device="cpu") if isinstance(argument.type, torch.TensorType) else 1.0
        for argument in operator._schema.arguments
    ]
    return bool(operator(*arguments).requires_grad)


def _register(name: str, operator: Any) -> None:
    function: Any = type(operator._opname, (_Underivable,), {})

    def kernel(*args: Any, **kwargs: Any) -> Any:
        result = operator(*args, **kwargs)
        followed = any([isinstance(entry, Tensor) and entry.requires_grad for entry in args])
        # Forward mode does not say whom it follows.
        if not (inside_transform() or (followed and torch.is_grad_enabled())):
            return result
        return function.apply(name, result, *args)

    intercept(name, kernel)


for _name in NAMES:
    _packet = getattr(torch.ops.aten, f"special_{_name}", None)
    for _overload in _packet.overloads() if _packet is not None else ():
        if "out" not in _overload:
            _full = f"aten::special_{_name}" + ("" if _overload == "default" else f".{_overload}")
            _operator = getattr(_packet, _overload)
            if not _is_differentiated(_operator):
                _register(_full, _operator)
