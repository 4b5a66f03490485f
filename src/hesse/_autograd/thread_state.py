"""The state of PyTorch on a thread, put back where something is raised: an interrupt may come at any line.

Managers of PyTorch's, and Python's ``with`` itself, leave things changed where an interrupt comes while they are
entered or left. So whatever hesse changes for a while is changed below a function that is ``interruptible``.
"""

from __future__ import annotations

import functools
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch._C import _functorch

from hesse._base import handed_on
from hesse._rules import scope

P = ParamSpec("P")
R = TypeVar("R")

_INSIDE = "hesse.inside"
"""Key of the count of products this thread is inside of, in the storage PyTorch hands on to a backward's threads."""


def inside() -> int:
    """How many products this thread is inside of."""
    return torch._C._get_obj_in_tls(_INSIDE) if torch._C._is_key_in_tls(_INSIDE) else 0


def put_inside(count: int) -> None:
    """Say how many products this thread is inside of."""
    handed_on.put(_INSIDE, count)


class _Guards(threading.local):
    """What this thread has entered of inference mode, which can only be left by what entered it."""

    def __init__(self) -> None:
        self.entered: list[Any] = []


_guards = _Guards()


class inference_mode:
    """``torch.inference_mode``, which ``interruptible`` leaves where it was not left."""

    def __init__(self, mode: bool) -> None:
        self._mode = mode

    def __enter__(self) -> None:
        guard = torch._C._InferenceMode(self._mode)
        _guards.entered.append(guard)
        guard.__enter__()  # type: ignore[no-untyped-call]  # no types there

    def __exit__(self, *exception: object) -> None:
        _guards.entered[-1].__exit__(None, None, None)
        _guards.entered.pop()


def interruptible(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, after which nothing is changed where it raises, at whichever line."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        before = _State()
        # No line comes after the call: one that is left is not looked at by this handler.
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            if not isinstance(error, Exception) or before.has_changed():
                # Managers that are generators put back what they changed when their frames are freed: let it be now.
                traceback.clear_frames(error.__traceback__)
            before.put_back()
            raise

    return call


class _State:
    """What PyTorch keeps for a thread, and anomaly mode and Python's warnings for the process."""

    def __init__(self) -> None:
        self._entered = len(_guards.entered)
        self._gradients = torch.is_grad_enabled()
        self._rules = scope.hold()
        self._inside, self._once_more = inside(), scope.differentiated_once_more()
        self._levels = _functorch.get_dynamic_layer_stack_depth()
        self._modes = _dispatch_modes(), _function_modes()
        self._cache = torch.is_autocast_cache_enabled()
        self._anomaly = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
        self._warnings = warnings.filters, warnings.showwarning

    def has_changed(self) -> bool:
        """Whether anything is not as it was."""
        return vars(_State()) != vars(self)

    def put_back(self) -> None:
        """Everything that is not as it was."""
        while len(_guards.entered) > self._entered:
            _guards.entered.pop().__exit__(None, None, None)
        if _functorch.get_dynamic_layer_stack_depth() > self._levels:
            _functorch.pop_dynamic_layer_stack_and_undo_to_depth(self._levels)
        dispatched, functions = self._modes
        if _dispatch_modes() != dispatched:
            while torch._C._len_torch_dispatch_stack():
                torch._C._pop_torch_dispatch_stack()
            for mode in dispatched:
                torch._C._push_on_torch_dispatch_stack(mode)
        if _function_modes() != functions:
            while torch._C._len_torch_function_stack():
                torch._C._pop_torch_function_stack()
            for mode in functions:
                torch._C._push_on_torch_function_stack(mode)
        scope.put_back(self._rules)
        scope.once_more(self._once_more)
        put_inside(self._inside)
        torch._C._set_grad_enabled(self._gradients)
        torch.set_autocast_cache_enabled(self._cache)
        torch.set_anomaly_enabled(*self._anomaly)
        warnings.filters, warnings.showwarning = self._warnings


def _dispatch_modes() -> Sequence[Any]:
    count = torch._C._len_torch_dispatch_stack()
    return [torch._C._get_dispatch_stack_at(place) for place in range(count)] if count else ()


def _function_modes() -> Sequence[Any]:
    count = torch._C._len_torch_function_stack()
    return [torch._C._get_function_stack_at(place) for place in range(count)] if count else ()
