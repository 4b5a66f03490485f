"""Where a function cuts its output off from its inputs: ``detach``, ``no_grad``, ``.item()`` and their like."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from hesse._autograd.provenance import Frame, calling_frame, in_custom_forward
from hesse._base import trees

Kind = Literal["detach", "grad mode", "inner gradient", "hook", "number", "steps", "narrow"]
CUTTING: tuple[Kind, ...] = ("detach", "grad mode", "inner gradient", "hook")
"""Those that make autograd's derivative another one than that of the values."""

_NUMBERS = {"item", "tolist", "numpy", "__float__", "__int__", "__complex__", "__array__", "__index__"}
# Piecewise constant, with an output of the input's dtype: autograd follows them, to a derivative of zero.
_STEPS = {"round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "heaviside", "floor_divide", "__floordiv__"}
_STEPS |= {f"{name}_" for name in _STEPS if not name.startswith("_")}
_DETACHING = {"detach", "detach_", "data"}
# These take a shape, and no value, of their first argument.
_SHAPED = {f"{name}_like" for name in ("zeros", "ones", "full", "empty", "rand", "randn", "randint")}
_SHAPED |= {f"new_{name}" for name in ("zeros", "ones", "full", "empty", "empty_strided")}


_TOLD: dict[Kind, tuple[str, str]] = {
    "detach": (
        "cuts the output off from the inputs",
        "Leave it out, unless what it cuts off is meant to be a constant.",
    ),
    "grad mode": (
        "is on, so what is computed there is cut off from the inputs",
        "Compute it outside of that block, unless it is meant to be a constant.",
    ),
    "inner gradient": (
        "is called without create_graph=True, so its result is cut off from the inputs",
        "Pass create_graph=True.",
    ),
    "number": (
        "leaves PyTorch, so what is computed from it is cut off from the inputs",
        "Compute with tensors throughout.",
    ),
    "hook": ("may change gradients on their way", "Leave it out, unless that is meant."),
    "steps": ("is piecewise constant, so its derivative is zero", "Use a smooth function in its place."),
    "narrow": ("rounds to fewer digits than its arguments have", "Keep the precision of the inputs."),
}
"""What happens there, and what helps."""


class Cut(NamedTuple):
    """One place where a derivative ends, or digits do."""

    kind: Kind
    operator: str
    frame: Frame | None

    @property
    def sentence(self) -> str:
        """What happens there."""
        return f"{self.operator} {_TOLD[self.kind][0]}."

    @property
    def remedy(self) -> str:
        """What helps."""
        return _TOLD[self.kind][1]


def in_order(cuts: Iterable[Cut]) -> list[Cut]:
    """The cuts by their lines."""
    return sorted(cuts, key=lambda cut: (cut.frame is None, cut.frame or (), cut.operator))


class Cuts(TorchFunctionMode):
    """Around an evaluation: follows what depends on the inputs, and notes where autograd does not.

    Sees what Python code calls, and so not inside TorchScript. Changes nothing.

    Attributes:
        numbers: where tensors that depend on the inputs became Python numbers; nobody can follow those.
        branches: where such a tensor decided what Python does next.
    """

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        super().__init__()
        # For each tensor that depends on the inputs: the cuts on its way.
        self._passed: MutableMapping[Tensor, frozenset[Cut]] = WeakTensorKeyDictionary()
        for tensor in inputs:
            self._passed[tensor] = frozenset()
        self.numbers: set[Cut] = set()
        self.branches: set[Cut] = set()
        self._no_grad: Frame | None = None

    def before(self, output: Tensor) -> set[Cut]:
        """The cuts on the way from the inputs to ``output``."""
        return set(self._passed.get(output, ()))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        returned = func(*args, **(kwargs or {}))
        name = _name(func)
        # ``t.data = x`` gives nothing: what it makes is t.
        result = args[0] if name == "data" and len(args) == 2 else returned
        if name == "_set_grad_enabled":
            self._no_grad = None if torch.is_grad_enabled() else calling_frame()
            return result
        arguments = [entry for entry in trees.leaves((args, kwargs)) if isinstance(entry, Tensor)]
        # What neither is followed nor a leaf was made out of sight, say by TorchScript.
        dependent = [
            tensor for tensor in arguments if tensor in self._passed or (tensor.requires_grad and not tensor.is_leaf)
        ]
        if name in _SHAPED:
            dependent = [tensor for tensor in dependent if tensor is not args[0]]
        if dependent:
            with_graph = name == "grad" and bool((kwargs or {}).get("create_graph"))
            self._follow(name, arguments, dependent, result, with_graph)
        return returned

    def _follow(
        self, name: str, arguments: list[Tensor], dependent: list[Tensor], result: Any, with_graph: bool
    ) -> None:
        if name in _NUMBERS:
            self.numbers.add(Cut("number", f"Tensor.{name}", calling_frame()))
        elif name == "__bool__":
            self.branches.add(Cut("number", "bool", calling_frame()))
        passed = frozenset().union(*[self._passed.get(tensor, ()) for tensor in dependent])
        outputs = [entry for entry in trees.leaves(result) if isinstance(entry, Tensor)]
        if name in ("__setitem__", "register_hook"):
            outputs = arguments[:1]
        for output in outputs:
            # A gradient with its graph and without a history is a constant.
            cut = None if with_graph else self._cut(name, dependent, output)
            for changed in {id(output): output, id(output._base): output._base}.values():
                if changed is not None:
                    self._passed[changed] = self._passed.get(changed, frozenset()) | passed | ({cut} if cut else set())

    def _cut(self, name: str, dependent: list[Tensor], output: Tensor) -> Cut | None:
        if name == "register_hook":
            return _cut("hook", f"Tensor.{name}")
        if name in _STEPS or not (output.dtype.is_floating_point or output.dtype.is_complex):
            return _cut("steps", f"torch.{name.strip('_')}")
        if not any([tensor.requires_grad for tensor in dependent]):
            return None
        if output.requires_grad:
            narrow = all([_digits(output) > _digits(tensor) for tensor in dependent])
            return _cut("narrow", f"torch.{name.strip('_')}") if narrow else None
        if name in _DETACHING:
            return _cut("detach", f"Tensor.{name}")
        if name == "grad":
            return _cut("inner gradient", "torch.autograd.grad")
        if torch.is_inference_mode_enabled():
            return _cut("grad mode", "torch.inference_mode")
        if not torch.is_grad_enabled():
            return _cut("grad mode", "torch.no_grad", self._no_grad)
        return _cut("detach", f"torch.{name.strip('_')}")


def _cut(kind: Kind, operator: str, place: Frame | None = None) -> Cut | None:
    """A cut here, or at the place where a block was entered; none inside of a custom function, which has a backward."""
    return None if in_custom_forward() else Cut(kind, operator, place or calling_frame())


def _digits(tensor: Tensor) -> float:
    """The rounding of a floating-point tensor; none for others."""
    return torch.finfo(tensor.dtype).eps if tensor.dtype.is_floating_point or tensor.dtype.is_complex else 0.0


def _name(func: Any) -> str:
    name: str = getattr(func, "__name__", "")
    # Attributes come as the getter or setter of a descriptor.
    return func.__self__.__name__ if name in ("__get__", "__set__") else name
