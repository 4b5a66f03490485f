"""The products while torch.compile traces the caller: written with torch.func, which its tracer understands.

``torch.autograd.grad`` cannot be traced, and a graph break inside a double backward is where PyTorch's own
functions raise or return zeros. Strict mode reads the autograd graph, so it is refused here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hesse.functional.arguments import (
    Argnums,
    check_cotangent,
    check_point,
    check_tangent,
    evaluate,
    evaluate_scalar,
    without_history,
)

Leaves = tuple[Tensor, ...]


def vhp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any,
    create_graph: bool,
    strict: bool,
    has_aux: bool,
    argnums: Argnums,
) -> Any:
    """:func:`hesse.vhp` inside a compiled region: vjp of the gradient."""
    return _hessian_product("vhp", func, inputs, v, create_graph, strict, has_aux, argnums, transposed=True)


def hvp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any,
    create_graph: bool,
    strict: bool,
    has_aux: bool,
    argnums: Argnums,
) -> Any:
    """:func:`hesse.hvp` inside a compiled region: vjp of the vjp of the gradient."""
    return _hessian_product("hvp", func, inputs, v, create_graph, strict, has_aux, argnums, transposed=False)


def _hessian_product(
    name: str,
    func: Callable[..., Any],
    inputs: Any,
    v: Any,
    create_graph: bool,
    strict: bool,
    has_aux: bool,
    argnums: Argnums,
    *,
    transposed: bool,
) -> Any:
    refuse_strict(name, strict)
    point = check_point(name, func, inputs, argnums)
    vector = tuple(check_tangent(name, v, point))

    def scalar(x: Leaves) -> tuple[Tensor, Any]:
        output, aux = evaluate_scalar(name, point, x, False, has_aux)
        return output.reshape(()), (output, aux)

    gradient = torch.func.grad(scalar, has_aux=True)
    _, pull, (output, aux) = torch.func.vjp(gradient, tuple(point.leaves), has_aux=True)
    product = pull(vector)[0] if transposed else _forward(pull, vector, vector)
    result = without_history((output, point.spec.rebuild(product), aux), create_graph)
    return result if has_aux else result[:2]


def vjp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any,
    create_graph: bool,
    strict: bool,
    has_aux: bool,
    argnums: Argnums,
) -> Any:
    """:func:`hesse.functional.vjp` inside a compiled region."""
    refuse_strict("vjp", strict)
    point = check_point("vjp", func, inputs, argnums)
    specs = []

    def outputs_at(x: Leaves) -> tuple[Leaves, Any]:
        outputs, spec, aux = evaluate("vjp", point, x, False, has_aux)
        specs.append(spec)
        return tuple(outputs), aux

    outputs, pull, aux = torch.func.vjp(outputs_at, tuple(point.leaves), has_aux=True)
    cotangents = tuple(check_cotangent("vjp", v, outputs, specs[0]))
    product = point.spec.rebuild(pull(cotangents)[0])
    result = without_history((specs[0].rebuild(outputs), product, aux), create_graph)
    return result if has_aux else result[:2]


def jvp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any,
    create_graph: bool,
    strict: bool,
    has_aux: bool,
    argnums: Argnums,
) -> Any:
    """:func:`hesse.functional.jvp` inside a compiled region: the double-backward trick."""
    refuse_strict("jvp", strict)
    point = check_point("jvp", func, inputs, argnums)
    vector = tuple(check_tangent("jvp", v, point))
    specs = []

    def outputs_at(x: Leaves) -> tuple[Leaves, Any]:
        outputs, spec, aux = evaluate("jvp", point, x, False, has_aux)
        specs.append(spec)
        return tuple(outputs), aux

    outputs, pull, aux = torch.func.vjp(outputs_at, tuple(point.leaves), has_aux=True)
    product = specs[0].rebuild(_forward(pull, outputs, vector))
    result = without_history((specs[0].rebuild(outputs), product, aux), create_graph)
    return result if has_aux else result[:2]


def _forward(pull: Callable[[Leaves], Any], outputs: Leaves, vector: Leaves) -> Leaves:
    """J·vector from the pullback w ↦ Jᵀw, which is linear: its own pullback."""
    zeros = tuple([torch.zeros_like(output) for output in outputs])
    _, push = torch.func.vjp(lambda weights: pull(weights)[0], zeros)
    product: Leaves = push(vector)[0]
    return product


def refuse_strict(name: str, strict: bool) -> None:
    """Strict mode inside a compiled region, refused."""
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
