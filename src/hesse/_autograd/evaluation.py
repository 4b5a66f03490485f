"""Evaluate a user's function so that its derivatives can be trusted, whatever surrounds the call.

Around a call there may be ``no_grad``, ``inference_mode``, a torch.func transform or compiled functions.
Each of them makes plain autograd raise or, worse, return zeros without a word; ``differentiate`` is the one
place where they are dealt with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hesse._autograd import graph, hooks
from hesse._autograd.thread_state import interruptible, ordinary_autograd, untraced
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


def refuse_compiled(name: str, outputs: Sequence[Tensor], x: Sequence[Tensor]) -> None:
    """Refuse outputs that a compiled function made of ``x``: their second derivative would be zero, or an error.

    Compiled functions run eagerly here, unless the function loads the compiler or sets its stance itself.
    """
    compiled = [node for node in graph.nodes(outputs) if "CompiledFunction" in type(node).__name__]
    if not compiled:
        return
    variables = {torch.autograd.graph.get_gradient_edge(leaf).node for leaf in x}
    if not variables.isdisjoint(graph.nodes(compiled)):
        raise RuntimeError(
            f"The function given to {name} ran a function compiled by torch.compile, which has no second derivative,"
            " in a way that could not be run eagerly: it called torch.compile for the first time in this process, or"
            " set the compiler's stance. Call torch.compile before, and leave the stance alone."
        )


def refuse_scripted(name: str, outputs: Sequence[Tensor]) -> None:
    """Refuse outputs of TorchScript inside a transform that differentiates: to it their gradient is a constant.

    Only from the second call on, when PyTorch has optimized the script.
    """
    functorch: Any = torch._C._functorch
    # The innermost level differentiates once, which is right.
    outer = (functorch.get_interpreter_stack() or [])[:-1]
    if all([level.key() == functorch.TransformType.Vmap for level in outer]):
        return
    if any(["DifferentiableGraph" in graph.name_of(node) for node in graph.nodes(outputs)]):
        raise RuntimeError(
            f"The function given to {name} runs TorchScript inside a torch.func transform, as forward mode is, to which"
            " PyTorch's gradient of it is a constant. Call the function that was scripted, or differentiate in reverse"
            " mode, without a transform."
        )


class _WithoutDataOfInputs(TorchFunctionMode):
    """Refuses to assign what belongs to a transform to ``data`` of another tensor, which PyTorch crashes of later."""

    _set: Any = Tensor.data.__set__  # type: ignore[attr-defined]  # a property made in C

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, unless it is that assignment."""
        is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
        if func == self._set and is_wrapped(args[1]) and not is_wrapped(args[0]):
            raise RuntimeError(
                "The function assigns what it makes of its input to .data of another tensor, as"
                " torch.nn.utils.vector_to_parameters does, which is neither differentiable nor possible inside a"
                " torch.func transform. Call the model by torch.func.functional_call(model, parameters, arguments)."
            )
        return func(*args, **(kwargs or {}))


@interruptible
def _at_transform_level(body: Callable[[tuple[Tensor, ...]], Any], leaves: Sequence[Tensor]) -> Any:
    """Run ``body`` one differentiation level deeper in torch.func, where torch.autograd.grad works.

    ``torch.func.vjp`` only provides the level: it wraps the leaves and unwraps the tensors of the result.
    """
    kept: list[Any] = []

    def at_level(*tracked: Tensor) -> tuple[Tensor, ...]:
        with _WithoutDataOfInputs():
            kept[:] = trees.flatten(body(tuple(map(hooks.noted, tracked))))
        return tuple([result for result in kept[0] if isinstance(result, Tensor)])

    held = scope.put(True)
    try:
        tensors = torch.func.vjp(at_level, *leaves)[0]
    finally:
        scope.put_back(held)
    results, spec = kept
    # As ``gradients`` does; here zeros without memory are seen once they are unwrapped.
    unwrapped = iter([tensor.clone() if tensor._is_zerotensor() else tensor for tensor in tensors])
    return spec.rebuild([next(unwrapped) if isinstance(result, Tensor) else result for result in results])
