"""Which operator's derivative is wrong: each call of an evaluation is examined by itself, where it stands.

Arguments are moved as they move with the variables: other directions may leave what an operator is defined for, such as
symmetric matrices, or part what belongs together, such as a layer's input and its statistics.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionMeta
from torch.overrides import TorchFunctionMode

from hesse._autograd.provenance import Frame, calling_frame, code_of, in_custom_forward, operator_name
from hesse._base import trees
from hesse._base.fixed_draws import fixed_generator, random_like
from hesse._checking.calls import tensors
from hesse._checking.differences import differences, scaled
from hesse._checking.doubling import double_leaves
from hesse._checking.subject import Subject, norm
from hesse._rules.batches import has_values


class Suspect(NamedTuple):
    """An operator whose derivatives differ from differences.

    Attributes:
        operator: its name, or that of the custom autograd.Function.
        frame: the user's line that called it.
        order: 1 when the gradient is wrong, 2 when only its derivative is.
        once: whether it is a custom function marked ``once_differentiable``.
    """

    operator: str
    frame: Frame | None
    order: int
    once: bool = False


class _Called(NamedTuple):
    """A call: ``function(*args, **kwargs)``."""

    operator: str
    frame: Frame | None
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def _given(called: _Called) -> list[Tensor]:
    """Copies of the tensors that a call is given and that require gradients, since it may change them later."""
    given = [tensor for tensor in tensors((called.args, called.kwargs)) if tensor.requires_grad]
    return [tensor.detach().clone() for tensor in given]


def suspects(subject: Subject) -> list[Suspect]:
    """The operators of an evaluation whose own derivatives are wrong, each line once.

    Those that Python code calls, and so none inside TorchScript; in-place operations are passed over.
    """
    examined: dict[tuple[str, Frame | None], Suspect | None] = {}
    elsewhere = _elsewhere(subject)

    def examine(called: _Called) -> None:
        key = called.operator, called.frame
        moved = next(elsewhere, ("", []))
        if key not in examined:
            examined[key] = None
            # Calls that the examination itself makes are not the user's.
            watch = sys.getprofile()
            sys.setprofile(None)
            examined[key] = _suspect(called, _direction(called, *moved))
            sys.setprofile(watch)

    _each_call(subject, subject.leaves, examine)
    found = [suspect for suspect in examined.values() if suspect is not None]
    # An operator whose backward calls one with a wrong gradient is not to blame.
    return [suspect for suspect in found if suspect.order == min([other.order for other in found])]


def _each_call(subject: Subject, leaves: Sequence[Tensor], examine: Callable[[_Called], None]) -> None:
    """Hand each call of an evaluation to ``examine``, and then those of custom functions."""
    customs: list[_Called] = []
    with _calls_of_custom_functions(customs):
        # A product, since backwards may call custom functions too.
        subject.product(leaves, subject.leaves, lambda: _Examined(examine))
    for called in customs:
        examine(called)


def _elsewhere(subject: Subject) -> Iterator[tuple[str, list[Tensor]]]:
    """What the calls are given a short step away from the point."""
    generator = fixed_generator(torch.device("cpu"))
    random = [random_like(leaf.real, generator).to(leaf.dtype) for leaf in subject.leaves]
    direction = scaled(random, subject.leaves)
    step = max([torch.finfo(leaf.dtype).eps for leaf in subject.leaves]) ** (1 / 3)
    leaves = [leaf.detach() + step * along for leaf, along in zip(subject.leaves, direction, strict=True)]
    moved: list[tuple[str, list[Tensor]]] = []
    _each_call(subject, leaves, lambda called: moved.append((called.operator, _given(called))))
    return iter(moved)


def _direction(called: _Called, operator: str, moved: list[Tensor]) -> list[Tensor] | None:
    """How the arguments of a call move, as long as themselves; None where it was another call elsewhere."""
    here = _given(called)
    if operator != called.operator or [there.shape for there in moved] != [tensor.shape for tensor in here]:
        return None
    tangent = [there - tensor for there, tensor in zip(moved, here, strict=True)]
    size = norm(tangent)
    factor = (norm(here) or 1.0) / size if size else 0.0
    return [factor * entry for entry in tangent]


class _Examined(TorchFunctionMode):
    """Around an evaluation: hands each differentiated call to ``examine`` before it is made."""

    def __init__(self, examine: Callable[[_Called], None]) -> None:
        super().__init__()
        self._examine = examine

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        changes = name.startswith("__") or name.endswith("_") or "out" in kwargs or kwargs.get("inplace")
        followed = [tensor for tensor in tensors((args, kwargs)) if tensor.requires_grad]
        # What a call makes of a batch of vmap cannot be looked at.
        seen = bool(followed) and all([has_values(tensor) for tensor in followed])
        if not changes and torch.is_grad_enabled() and seen and not in_custom_forward():
            self._examine(_Called(f"torch.{name}", calling_frame(), func, args, kwargs))
        return func(*args, **kwargs)


@contextlib.contextmanager
def _calls_of_custom_functions(calls: list[_Called]) -> Iterator[None]:
    """Within it, what is given to each ``autograd.Function.apply``, which no mode is told of."""

    applied: Any = None

    def watch(frame: FrameType, event: str, called: Any) -> None:
        nonlocal applied
        if event == "c_call" and called.__name__ == "apply" and isinstance(called.__self__, FunctionMeta):
            # A rule of hesse takes some of what it is given for functions of the rest.
            applied = None if called.__self__.__module__.startswith("hesse.") else called.__self__
        # Not every release shows what apply is given, but its forward is given that too.
        elif event == "call" and applied is not None and frame.f_code is code_of(applied.forward):
            args = trees.map_tensors(_copy, _arguments(frame))
            # A function without a context of its own takes it as its first argument.
            if applied.setup_context is torch.autograd.Function.setup_context:
                args = args[1:]
            operator = operator_name(f"{applied.__name__}Backward")
            calls.append(_Called(operator, calling_frame(frame.f_back), applied.apply, args, {}))
            applied = None

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)


def _arguments(frame: FrameType) -> tuple[Any, ...]:
    """What a call was given by position."""
    named, rest, _, values = inspect.getargvalues(frame)
    return (*[values[name] for name in named], *(values[rest] if rest else ()))


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _suspect(called: _Called, direction: Sequence[Tensor] | None) -> Suspect | None:
    order = _wrong_order(called, direction)
    if order is None:
        return None
    cls = getattr(called.function, "__self__", None)
    backward = code_of(getattr(cls, "backward", None))
    # The decorator leaves no other mark than the function that it wraps around.
    once = backward is not None and backward.co_qualname.startswith("once_differentiable.")
    return Suspect(called.operator, called.frame, order, once)


def _wrong_order(called: _Called, direction: Sequence[Tensor] | None) -> int | None:
    """Which derivative of a function of the call's results is the first wrong one along a direction; None if none is.

    The function has curvature, so that what a backward makes of a cotangent is differentiated by the cotangent as well.
    """
    leaves, spec = trees.flatten((called.args, called.kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
    cpu = torch.device("cpu")

    def combination(*variables: Tensor) -> Tensor:
        given = list(leaves)
        for place, variable in zip(places, variables, strict=True):
            given[place] = variable
        args, kwargs = spec.rebuild(given)
        results = [result for result in tensors(called.function(*args, **kwargs)) if result.dtype.is_floating_point]
        generator = fixed_generator(cpu)
        weighted = [random_like(result, generator) * result for result in results]
        return sum([(entry + entry**2 / 2).sum() for entry in weighted], torch.zeros((), device="cpu"))

    variables = tuple([leaves[place].detach() for place in places])
    # An operator may have no double precision, and an argument no meaning by itself.
    for cast in (True, False):
        with contextlib.suppress(Exception):
            subject = Subject(combination, variables, False, None)
            x = double_leaves(subject) if cast else list(variables)
            center = subject.evaluate(x)
            if not any(center.connected):
                # It cuts off, which is no derivative, wrong or right.
                return None
            if direction is None:
                generator = fixed_generator(cpu)
                along = scaled([random_like(leaf.real, generator).to(leaf.dtype) for leaf in x], x)
            else:
                along = [entry.to(leaf.dtype) for entry, leaf in zip(direction, x, strict=True)]
            first, second = differences(subject.evaluate, center, x, along, subject.product(x, along))
            wrong = [order for order, found in ((1, first), (2, second)) if found.verdict == "disagrees"]
            return wrong[0] if wrong else None
    return None
