"""The state of PyTorch on a thread, put back where something is raised: an interrupt may come at any line.

Managers of PyTorch's, and Python's ``with`` itself, leave things changed where an interrupt comes while they are
entered or left. So whatever hesse changes for a while is changed below a function that is ``interruptible``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch
from torch.overrides import TorchFunctionMode

from hesse._base import handed_on, trees
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
        # These are read in each product of a kept point, so no function of Python is called.
        self._inside = torch._C._get_obj_in_tls(_INSIDE) if torch._C._is_key_in_tls(_INSIDE) else 0
        key = scope.ONCE_MORE
        self._once_more = bool(torch._C._is_key_in_tls(key) and torch._C._get_obj_in_tls(key))
        self._levels = _functorch.get_dynamic_layer_stack_depth()
        self._modes: tuple[Sequence[Any], Sequence[Any]] = ((), ())
        if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
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


def compiler_is_loaded() -> bool:
    """Whether a function made by torch.compile can exist; loading the compiler only to say no takes a second."""
    return "torch._dynamo" in sys.modules


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` out of torch.compile's sight: what it could not trace it runs, and compiles what that calls."""
    # torch.compile may watch the thread without tracing this very call. No public name tells; the test of graph breaks
    # fails if this one moves.
    if torch.compiler.is_dynamo_compiling() or (
        "torch._dynamo" in sys.modules and torch._C._dynamo.eval_frame.get_eval_frame_callback() not in (None, False)
    ):
        disabled: Callable[..., Any] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]  # no types there
        return disabled
    return function


class ordinary_autograd:
    """Gradients on, inference mode off, compiled functions run eagerly, rules in force: for double backwards.

    Below a function that is ``interruptible``, which puts everything back where something is raised.
    """

    def __enter__(self) -> None:
        # Not an ExitStack, which takes longer than all else that a small product does beside its arithmetic.
        self._entered: list[contextlib.AbstractContextManager[Any]] = []
        # Two calls into C, and none of Python's.
        self._rules_held = scope.hold()
        scope.put_back(True)
        if torch.is_inference_mode_enabled():
            self._enter(inference_mode(False))
            self._enter(_NormalTensors())
        if "torch._dynamo" in sys.modules:
            self._enter(_eager)
        if not torch.is_grad_enabled():
            self._enter(torch.enable_grad())

    def _enter(self, manager: Any) -> None:
        manager.__enter__()
        self._entered.append(manager)

    def __exit__(self, kind: Any, *exception: Any) -> None:
        while self._entered:
            manager = self._entered.pop()
            try:
                manager.__exit__(None, None, None)
            except RuntimeError:
                # A mode that an interrupt has left off the stack.
                if kind is None:
                    raise
        scope.put_back(self._rules_held)


class _NormalTensors(TorchFunctionMode):
    """Give autograd copies of captured inference tensors, which it refuses to save for a backward.

    Entered only under inference mode. Operations on inference tensors alone stay in inference mode, so that views
    are views and writes arrive; what a mixed operation changes in place (batch_norm its buffers) is copied back.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("__get__", "__set__"):
            return func(*args, **kwargs)
        tensors = [entry for entry in trees.leaves((args, kwargs)) if isinstance(entry, Tensor)]
        # A clone is how an inference tensor becomes a normal one.
        if tensors and func is not Tensor.clone and all(tensor.is_inference() for tensor in tensors):
            with inference_mode(True):
                return func(*args, **kwargs)
        copies: list[tuple[Tensor, Tensor, int]] = []

        def normal(tensor: Tensor) -> Tensor:
            if not tensor.is_inference():
                return tensor
            copy = tensor.clone()
            copies.append((tensor, copy, copy._version))
            return copy

        args, kwargs = trees.map_tensors(normal, (args, kwargs))
        result = func(*args, **kwargs)
        for original, copy, version in copies:
            # batch_norm updates its buffers without counting a version.
            if copy._version != version or not torch.equal(copy, original):
                if copy.requires_grad:
                    raise RuntimeError(
                        f"The function changes a captured inference tensor of shape {tuple(original.shape)} in place"
                        " by what depends on the inputs, which autograd cannot follow. Make that tensor outside"
                        " torch.inference_mode()."
                    )
                with inference_mode(True):
                    original.copy_(copy)
        return result


class _EagerInside:
    """What torch.compile reads as its stance: eager for threads inside a product, and the usual one for others."""

    def __init__(self, usual: Any) -> None:
        self.usual = usual

    @property
    def stance(self) -> str:
        return "force_eager" if inside() else str(self.usual.stance)

    @property
    def skip_guard_eval_unsafe(self) -> bool:
        return bool(self.usual.skip_guard_eval_unsafe)

    @property
    def backend(self) -> Any:
        return self.usual.backend


class _EagerStance:
    """Run functions made by torch.compile eagerly: their compiled form has no second derivative.

    ``torch.compiler.set_stance`` would change the stance of the whole process, and a function compiled with
    ``fullgraph=True`` that another thread happens to call then raises. So the stance set here depends on the
    thread that reads it. It stays, and is the usual one outside: an interrupt must not come between two changes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._products = 0

    def __enter__(self) -> None:
        # An import statement takes as long as a small operation, and this stands in each product.
        eval_frame: Any = sys.modules.get("torch._dynamo.eval_frame") or importlib.import_module(
            "torch._dynamo.eval_frame"
        )
        if not isinstance(eval_frame._stance, _EagerInside):
            stance: Any = _EagerInside(eval_frame._stance)
            eval_frame._set_stance(stance)
        if _counts_eager_frames(eval_frame):
            self._count_for(1, eval_frame)
        put_inside(inside() + 1)

    def __exit__(self, *exception: object) -> None:
        put_inside(inside() - 1)
        eval_frame: Any = sys.modules["torch._dynamo.eval_frame"]
        if _counts_eager_frames(eval_frame):
            self._count_for(-1, eval_frame)

    def _count_for(self, change: int, eval_frame: Any) -> None:
        """Hold the count of compiled frames, which is the process's: another does not begin, nor warns at its end."""
        with self._lock:
            self._products += change
            eval_frame.set_fullgraph_compiled_frame_count(1 if self._products else -1)


def _counts_eager_frames(eval_frame: Any) -> bool:
    """Whether PyTorch, as 2.12 does, warns of functions without a graph break that a stance runs eagerly.

    Later ones look at the stance, and can say why frames were skipped.
    """
    return hasattr(eval_frame, "set_fullgraph_compiled_frame_count") and not hasattr(eval_frame, "get_skip_reasons")


_eager = _EagerStance()
