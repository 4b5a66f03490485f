"""Evaluate a user's function so that its derivatives can be trusted, whatever surrounds the call.

Around a call there may be ``no_grad``, ``inference_mode``, a torch.func transform or compiled functions.
Each of them makes plain autograd raise or, worse, return zeros without a word; ``differentiate`` is the one
place where they are dealt with.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hesse._autograd import graph, hooks
from hesse._autograd.thread_state import inference_mode, inside, interruptible, put_inside
from hesse._base import trees
from hesse._rules import scope
from hesse._rules.scope import inside_transform as inside_transform


def differentiate(
    body: Callable[[tuple[Tensor, ...]], Any], leaves: Sequence[Tensor], create_graph: bool, as_transform: bool = False
) -> Any:
    """``body(tracked)``, where ``tracked`` are the leaves as autograd can follow them to their derivatives.

    With ``create_graph`` the tracked leaves stay connected to those of ``leaves`` that require gradients.
    Inside a torch.func transform they are always connected: what is differentiated from outside does not ask.
    ``as_transform`` asks for the same outside of one.
    """
    if as_transform or inside_transform():
        return untraced(_at_transform_level)(body, leaves)
    return untraced(_with_ordinary_autograd)(body, leaves, create_graph)


@interruptible
def _with_ordinary_autograd(
    body: Callable[[tuple[Tensor, ...]], Any], leaves: Sequence[Tensor], create_graph: bool
) -> Any:
    with ordinary_autograd():
        return body(tuple([track(leaf, create_graph) for leaf in leaves]))


def track(leaf: Tensor, create_graph: bool) -> Tensor:
    """A new tensor object that requires gradients and shares the leaf's memory.

    Always a new object, so that a tensor both given and captured by the function counts as a variable where
    it was given and as a constant where it was captured.
    """
    if leaf.is_inference():
        leaf = leaf.clone()
    if create_graph and leaf.requires_grad:
        # Sparse tensors have no views.
        return hooks.noted(leaf.clone() if leaf.is_sparse else leaf.view_as(leaf))
    return hooks.noted(leaf.detach().requires_grad_())


def constant(vector: Tensor, create_graph: bool) -> Tensor:
    """The vector as a new tensor object: connected to ``vector`` with ``create_graph``, cut off without."""
    if vector.is_inference():
        vector = vector.clone()
    if not create_graph:
        return vector.detach()
    # Not detached even when it requires no gradients: forward mode carries its tangents without saying so.
    return vector.clone() if vector.is_sparse else vector.view_as(vector)


def zeros_variable_like(tensor: Tensor) -> Tensor:
    """Zeros like ``tensor`` that autograd follows: what the double-backward trick differentiates by."""
    if inside_transform():
        # Factories make untracked tensors inside a transform; a selection from a tracked one is tracked.
        return torch.where(torch.ones_like(tensor, dtype=torch.bool), torch.zeros_like(tensor), tensor)
    return torch.zeros_like(tensor, requires_grad=True)


def compiler_is_loaded() -> bool:
    """Whether a function made by torch.compile can exist; loading the compiler only to say no takes a second."""
    return "torch._dynamo" in sys.modules


def refuse_compiled(name: str, outputs: Sequence[Tensor], x: Sequence[Tensor]) -> None:
    """Refuse outputs that a compiled function made of ``x``: their second derivative would be zero, or an error.

    Compiled functions run eagerly here, unless the function loads the compiler or sets its stance itself.
    """
    compiled = [node for node in graph.nodes(outputs) if "CompiledFunction" in graph.name_of(node)]
    if not compiled:
        return
    variables = {torch.autograd.graph.get_gradient_edge(leaf).node for leaf in x}
    if not variables.isdisjoint(graph.nodes(compiled)):
        raise RuntimeError(
            f"The function given to {name} ran a function compiled by torch.compile, which has no second derivative,"
            " in a way that could not be run eagerly: it called torch.compile for the first time in this process, or"
            " set the compiler's stance. Call torch.compile before, and leave the stance alone."
        )


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` out of torch.compile's sight: what it could not trace it runs, and compiles what that calls."""
    # torch.compile may watch the thread without tracing this very call. No public name tells; the test of graph breaks
    # fails if this one moves.
    if torch.compiler.is_compiling() or (
        "torch._dynamo" in sys.modules and torch._C._dynamo.eval_frame.get_eval_frame_callback() not in (None, False)
    ):
        disabled: Callable[..., Any] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]  # no types there
        return disabled
    return function


@interruptible
def _at_transform_level(body: Callable[[tuple[Tensor, ...]], Any], leaves: Sequence[Tensor]) -> Any:
    """Run ``body`` one differentiation level deeper in torch.func, where torch.autograd.grad works.

    ``torch.func.vjp`` only provides the level: it wraps the leaves and unwraps the tensors of the result.
    """
    kept: list[Any] = []

    def at_level(*tracked: Tensor) -> tuple[Tensor, ...]:
        kept[:] = trees.flatten(body(tuple(map(hooks.noted, tracked))))
        return tuple([result for result in kept[0] if isinstance(result, Tensor)])

    held = scope.put(True)
    try:
        tensors = torch.func.vjp(at_level, *leaves)[0]
    finally:
        scope.put_back(held)
    results, spec = kept
    unwrapped = iter(tensors)
    return spec.rebuild([next(unwrapped) if isinstance(result, Tensor) else result for result in results])


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
        tensors = [entry for entry in trees.flatten((args, kwargs))[0] if isinstance(entry, Tensor)]
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

    def __enter__(self) -> None:
        from torch._dynamo import eval_frame

        if not isinstance(eval_frame._stance, _EagerInside):
            stance: Any = _EagerInside(eval_frame._stance)
            eval_frame._set_stance(stance)
        put_inside(inside() + 1)

    def __exit__(self, *exception: object) -> None:
        put_inside(inside() - 1)


_eager = _EagerStance()
