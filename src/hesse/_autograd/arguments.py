"""What the contract functions are given and give back: inputs, vectors and outputs, checked in one sentence.

The texts of the errors that PyTorch raises too are PyTorch's, since programs match them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hesse._autograd.aliases import tensor_in
from hesse._autograd.evaluation import inside_transform, refuse_compiled, refuse_scripted
from hesse._autograd.gradients import require_outputs
from hesse._autograd.thread_state import compiler_is_loaded
from hesse._base import checks, trees
from hesse._base.several_ranks import refusing_models
from hesse._base.trees import Path, Spec
from hesse._base.vectors import check_tensors, check_vector

Argnums = int | tuple[int, ...] | None


class Flags(NamedTuple):
    """The flags that vhp, hvp, vjp and jvp share."""

    create_graph: bool
    strict: bool
    has_aux: bool
    argnums: Argnums


class Point(NamedTuple):
    """Where a function is differentiated: its variable leaves, their structure, and how to call it there.

    ``call(leaves)`` evaluates the function with its variables replaced by ``leaves``; where arguments were chosen
    as variables, ``others`` are the tensors of all arguments.
    """

    leaves: list[Tensor]
    spec: Spec
    call: Callable[[Sequence[Tensor]], Any]
    others: Sequence[tuple[Path, Tensor]] = ()


def check_point(name: str, func: Callable[..., Any], inputs: Any, argnums: Argnums = None) -> Point:
    """The point ``inputs`` of ``func``, with the arguments that ``argnums`` chooses as variables."""
    if not callable(func) or isinstance(func, type):
        checks.functions(name, func=func)
    if argnums is not None:
        return _chosen(name, func, inputs, argnums)
    leaves, spec = trees.flatten(inputs)
    _check_differentiable(leaves, spec, name)
    if spec.length is None:
        return Point(leaves, spec, lambda tracked: refusing_models(name, func)(spec.rebuild(tracked)))
    return Point(leaves, spec, lambda tracked: refusing_models(name, func)(*spec.rebuild(tracked)))


def _chosen(name: str, func: Callable[..., Any], inputs: Any, argnums: int | tuple[int, ...]) -> Point:
    arguments = list(inputs) if isinstance(inputs, tuple) else [inputs]
    positions = argnums if isinstance(argnums, tuple) else (argnums,)
    for position in positions:
        checks.wholes(name, None, argnums=position)
        if not -len(arguments) <= position < len(arguments):
            raise ValueError(
                f"argnums given to {name} names argument {position}, but inputs holds {len(arguments)} arguments."
            )
    positions = tuple([position % len(arguments) for position in positions])
    if len(set(positions)) != len(positions):
        raise ValueError(f"argnums given to {name} names the same argument twice: {argnums}.")
    chosen = tuple([arguments[position] for position in positions])
    leaves, spec = trees.flatten(chosen[0] if isinstance(argnums, int) else chosen)
    _check_differentiable(leaves, spec, name)

    def call(tracked: Sequence[Tensor]) -> Any:
        replaced = spec.rebuild(tracked)
        full = list(arguments)
        for position, value in zip(positions, (replaced,) if isinstance(argnums, int) else replaced, strict=True):
            full[position] = value
        return refusing_models(name, func)(*full)

    everything, whole = trees.flatten(inputs)
    pairs = [(path, tensor_in(entry)) for path, entry in zip(whole.paths, everything, strict=True)]
    others = [(path, tensor) for path, tensor in pairs if tensor is not None]
    return Point(leaves, spec, call, others)


def check_tangent(name: str, v: Any, point: Point) -> list[Tensor]:
    """The entries of a vector in the space of the inputs; a one where it may be, and is, left out."""
    return _entries(name, v, point.leaves, point.spec, "input to the user-provided function is")


def check_cotangent(name: str, v: Any, outputs: Sequence[Tensor], spec: Spec) -> list[Tensor]:
    """The entries of a vector in the space of the outputs; a one where it may be, and is, left out."""
    return _entries(name, v, outputs, spec, "user-provided function returns")


def _entries(name: str, v: Any, like: Sequence[Tensor], spec: Spec, what: str) -> list[Tensor]:
    if v is not None:
        return check_vector(name, v, like, spec)
    if len(like) != 1 or like[0].nelement() != 1:
        raise RuntimeError(f"The vector v can only be None if the {what} a single Tensor with a single element.")
    return [torch.ones_like(like[0])]


def evaluate(
    name: str, point: Point, x: Sequence[Tensor], strict: bool, has_aux: bool
) -> tuple[list[Tensor], Spec, Any]:
    """The outputs of the function at ``x`` as leaves, their structure, and the auxiliary output."""
    returned, aux = _split_aux(name, point.call(x), has_aux)
    outputs, spec = trees.flatten(returned)
    check_tensors(outputs, spec, "outputs of the user-provided function", name)
    # While a region is compiled its outputs have no graph yet.
    if not torch.compiler.is_compiling():
        if inside_transform():
            refuse_scripted(name, outputs)
        elif compiler_is_loaded():
            refuse_compiled(name, outputs, x)
    if strict:
        require_outputs(outputs)
    return outputs, spec, aux


def evaluate_scalar(name: str, point: Point, x: Sequence[Tensor], strict: bool, has_aux: bool) -> tuple[Tensor, Any]:
    """The output, a single tensor with a single element, of a function that has a Hessian; and the auxiliary one."""
    outputs, spec, aux = evaluate(name, point, x, strict, has_aux)
    if spec.paths != ((),):
        raise RuntimeError(f"The function given to {name} should return a single Tensor")
    (output,) = outputs
    if output.nelement() != 1:
        raise RuntimeError(f"The Tensor returned by the function given to {name} should contain a single element")
    if output.dtype.is_complex:
        raise RuntimeError(
            f"The Tensor returned by the function given to {name} should be real but has dtype {output.dtype}."
        )
    return output, aux


def _split_aux(name: str, returned: Any, has_aux: bool) -> tuple[Any, Any]:
    """(outputs, auxiliary output) of a function that was declared to return both, or (outputs, None)."""
    if not has_aux:
        return returned, None
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(
            f"The function given to {name} with has_aux=True should return a pair (output, aux)"
            f" but returned {type(returned)}."
        )
    return returned


def without_history(tree: Any, create_graph: bool) -> Any:
    """``tree`` with its tensors cut off from the graph, unless the graph was asked for."""
    return tree if create_graph else trees.map_tensors(Tensor.detach, tree)


def _check_differentiable(leaves: Sequence[Tensor], spec: Spec, name: str) -> None:
    check_tensors(leaves, spec, "inputs", name)
    for number, leaf in enumerate(leaves):
        if not (leaf.dtype.is_floating_point or leaf.dtype.is_complex):
            raise RuntimeError(
                f"The inputs given to {name} must be floating-point or complex but {_place(spec, number)} has dtype"
                f" {leaf.dtype}. Convert it, capture it in the function, or leave it out with argnums."
            )
        if leaf.is_nested:
            raise TypeError(
                f"The inputs given to {name} must be tensors with one shape but {_place(spec, number)} is a nested"
                " tensor. Give the tensors that it is made of, and nest them in the function."
            )


def _place(spec: Spec, number: int) -> str:
    path = spec.paths[number]
    return f"the value at {trees.path_name(path)}" if path else "the given Tensor"
