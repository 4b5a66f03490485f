"""The products while torch.compile traces the caller: written with torch.func, which its tracer understands.

``torch.autograd.grad`` cannot be traced, and a graph break inside a double backward is where PyTorch's own
functions raise or return zeros: where the user's function breaks the graph, the product is made outside of it.
Strict mode reads the autograd graph, so it is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hesse._autograd.arguments import (
    Flags,
    Point,
    check_cotangent,
    check_point,
    check_tangent,
    evaluate,
    evaluate_scalar,
    without_history,
)
from hesse._base import trees
from hesse._base.trees import Spec

Leaves = tuple[Tensor, ...]
Pullback = Callable[[Leaves], Any]


class Broken(Exception):
    """The function breaks the caller's graph, so that the product has to be made outside of it."""


def traced(product: Callable[..., Any], *arguments: Any) -> Any:
    """What a product below gives; None where nothing is traced, or where the function breaks the graph."""
    try:
        return product(*arguments) if torch.compiler.is_compiling() else None
    except Broken:
        return None


def vhp(func: Callable[..., Any], inputs: Any, v: Any, flags: Flags) -> Any:
    """:func:`hesse.vhp` inside a compiled region: the pullback of the gradient."""
    point, vector, pull, output, aux = _gradient("vhp", func, inputs, v, flags)
    product = point.spec.rebuild(pull(vector)[0])
    return _results((output, product, aux), flags)


def hvp(func: Callable[..., Any], inputs: Any, v: Any, flags: Flags) -> Any:
    """:func:`hesse.hvp` inside a compiled region: the pullback of the pullback of the gradient."""
    point, vector, pull, output, aux = _gradient("hvp", func, inputs, v, flags)
    product = point.spec.rebuild(_forward(pull, vector, vector))
    return _results((output, product, aux), flags)


def vjp(func: Callable[..., Any], inputs: Any, v: Any, flags: Flags) -> Any:
    """:func:`hesse.functional.vjp` inside a compiled region."""
    point, outputs, spec, pull, aux = _outputs("vjp", func, inputs, flags)
    cotangents = _fresh(check_cotangent("vjp", v, outputs, spec))
    product = point.spec.rebuild(pull(cotangents)[0])
    return _results((spec.rebuild(outputs), product, aux), flags)


def jvp(func: Callable[..., Any], inputs: Any, v: Any, flags: Flags) -> Any:
    """:func:`hesse.functional.jvp` inside a compiled region: the double-backward trick."""
    vector = _fresh(check_tangent("jvp", v, check_point("jvp", func, inputs, flags.argnums)))
    _, outputs, spec, pull, aux = _outputs("jvp", func, inputs, flags)
    product = spec.rebuild(_forward(pull, outputs, vector))
    return _results((spec.rebuild(outputs), product, aux), flags)


def _gradient(
    name: str, func: Callable[..., Any], inputs: Any, v: Any, flags: Flags
) -> tuple[Point, Leaves, Pullback, Tensor, Any]:
    """The point, the vector, the pullback of the gradient map, the output and the auxiliary output."""
    _refuse_strict(name, flags.strict)
    point = check_point(name, func, inputs, flags.argnums)
    vector = _fresh(check_tangent(name, v, point))
    kept: list[Any] = []

    def scalar(x: Leaves) -> tuple[Tensor, Leaves]:
        _require_whole_graph()
        output, aux = evaluate_scalar(name, point, x, False, flags.has_aux)
        return output.reshape(()), (output, *_keep(aux, kept))

    gradient = torch.func.grad(scalar, has_aux=True)
    _, pull, (output, *tensors) = _pulled(gradient, point)
    return point, vector, pull, output, _give_back(kept, tensors)


def _outputs(
    name: str, func: Callable[..., Any], inputs: Any, flags: Flags
) -> tuple[Point, Leaves, Spec, Pullback, Any]:
    """The point, the outputs and their structure, the pullback of the function and the auxiliary output."""
    _refuse_strict(name, flags.strict)
    point = check_point(name, func, inputs, flags.argnums)
    kept: list[Any] = []
    specs: list[Spec] = []

    def outputs_at(x: Leaves) -> tuple[Leaves, Leaves]:
        _require_whole_graph()
        outputs, spec, aux = evaluate(name, point, x, False, flags.has_aux)
        specs.append(spec)
        return tuple(outputs), _keep(aux, kept)

    outputs, pull, tensors = _pulled(outputs_at, point)
    return point, outputs, specs[-1], pull, _give_back(kept, tensors)


def _pulled(function: Callable[[Leaves], Any], point: Point) -> Any:
    """Value, pullback and auxiliary output of ``function`` at the point."""
    # Rules do not reach into a traced region, and attention in plain operations needs none.
    with sdpa_kernel(SDPBackend.MATH):
        return torch.func.vjp(function, tuple(point.leaves), has_aux=True)


def _require_whole_graph() -> None:
    """After a break this runs as Python; a later piece of the graph would then apply a pullback without its history.

    PyTorch 2.11 returns zeros for it.
    """
    if not torch.compiler.is_compiling():
        raise Broken


def _fresh(entries: Sequence[Tensor]) -> Leaves:
    """Copies of the vector: a pullback may hand its argument through, and a result must not be the user's vector."""
    return tuple([entry.clone() for entry in entries])


def _keep(aux: Any, kept: list[Any]) -> Leaves:
    """The tensors of ``aux``, which must leave torch.func as results; ``kept`` holds the rest."""
    leaves, spec = trees.flatten(aux)
    kept[:] = [leaves, spec]
    return tuple([leaf for leaf in leaves if isinstance(leaf, Tensor)])


def _give_back(kept: list[Any], tensors: Sequence[Tensor]) -> Any:
    leaves, spec = kept
    unwrapped = list(tensors)
    return spec.rebuild([unwrapped.pop(0) if isinstance(leaf, Tensor) else leaf for leaf in leaves])


def _forward(pull: Pullback, outputs: Leaves, vector: Leaves) -> Leaves:
    """J·vector from the pullback w ↦ Jᵀw, which is linear: its own pullback."""
    zeros = tuple([torch.zeros_like(output) for output in outputs])
    push = torch.func.vjp(lambda weights: pull(weights)[0], zeros)[1]
    product: Leaves = push(vector)[0]
    return product


def _results(results: tuple[Any, Any, Any], flags: Flags) -> Any:
    kept = without_history(results, flags.create_graph)
    return kept if flags.has_aux else kept[:2]


def _refuse_strict(name: str, strict: bool) -> None:
    if strict:
        raise RuntimeError(
            f"{name} was given strict=True inside a region compiled by torch.compile, where there is no autograd"
            " graph to test. Call it with strict=False, or outside the compiled region."
        )


def refuse(name: str) -> None:
    """A function that torch.compile cannot trace, refused inside a compiled region."""
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f"{name} cannot be traced by torch.compile. Call it outside the compiled region, or use"
            " hesse.functional.vhp inside."
        )
