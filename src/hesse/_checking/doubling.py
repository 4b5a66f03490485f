"""The same function in double precision, where it lets itself be evaluated so."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hesse._base import trees
from hesse._checking.subject import Evaluation, Subject, norm

_DOUBLES = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}
_CASTS = {"float", "half", "bfloat16"}


class Doubled(TorchFunctionMode):
    """Around an evaluation: every tensor that PyTorch's functions are given or give has double precision."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__", "_set_grad_enabled"):
            return func(*args, **(kwargs or {}))
        if name in _CASTS:
            func = Tensor.double
        leaves, spec = trees.flatten((args, kwargs or {}))
        args, kwargs = spec.rebuild([_double(leaf) for leaf in leaves])
        return trees.map_tensors(_double, func(*args, **(kwargs or {})))


def doubled(subject: Subject, native: Evaluation) -> Evaluation | None:
    """Value and gradient in double precision; None where the function refuses, or is another one then.

    A function that draws or casts by dtype may be: only one that agrees with ``native`` is believed.
    """
    try:
        evaluation = subject.evaluate(double_leaves(subject), Doubled)
    # The function was not written for this: whatever it raises only says that it cannot be had.
    except Exception:
        return None
    eps = torch.finfo(native.value.dtype).eps
    close = torch.isclose(evaluation.value, native.value.double(), rtol=eps**0.5, atol=0).all()
    apart = norm([a - b for a, b in zip(evaluation.gradient, native.gradient, strict=True)])
    alike = bool(close) or apart <= eps**0.25 * norm(native.gradient)
    return evaluation if alike and evaluation.value.dtype == torch.float64 and evaluation.is_finite else None


def double_leaves(subject: Subject) -> list[Tensor]:
    """The point's variables in double precision."""
    return [_double(leaf.detach()) for leaf in subject.leaves]


def _double(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.to(_DOUBLES[leaf.dtype]) if leaf.dtype in _DOUBLES else leaf
    return _DOUBLES.get(leaf, leaf) if isinstance(leaf, torch.dtype) else leaf
