"""What vhp and hvp share: evaluate a scalar function and its gradient, then multiply."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from hesse._autograd.arguments import Flags, check_point, check_tangent, evaluate_scalar, without_history
from hesse._autograd.evaluation import constant, differentiate, inside_transform
from hesse._autograd.gradients import (
    Gradients,
    gradient_to_multiply,
    require_jacobian,
    unaliased,
    zeros_where_none,
)
from hesse._autograd.refusal import located

Multiply = Callable[[Gradients, Sequence[Tensor], Sequence[Tensor], Flags, bool], Gradients]
"""``multiply(gradient, x, vector, flags, keep_graph)``: the vector times the derivative of ``gradient`` by ``x``."""


def hessian_product(
    name: str,
    multiply: Multiply,
    func: Callable[..., Any],
    inputs: Any,
    v: Any,
    flags: Flags,
    as_transform: bool = False,
) -> Any:
    """``(output, product)`` or ``(output, product, aux)``, as the contract of vhp and hvp has them.

    ``as_transform``: connected and differentiable the way that torch.func's results are.
    """
    point = check_point(name, func, inputs, flags.argnums)
    entries = check_tangent(name, v, point)
    keep_graph = flags.create_graph or as_transform or inside_transform()

    def product_at(x: tuple[Tensor, ...]) -> Any:
        vector = [constant(entry, keep_graph) for entry in entries]
        output, aux = evaluate_scalar(name, point, x, flags.strict, flags.has_aux)
        gradient = gradient_to_multiply(output, x, keep_graph)
        if flags.strict:
            require_jacobian(gradient)
        products = multiply(gradient, x, vector, flags, keep_graph)
        return output, unaliased(zeros_where_none(products, x), vector), aux

    differentiated = functools.partial(differentiate, product_at, point.leaves, flags.create_graph, as_transform)
    output, product, aux = located(name, func, inputs, differentiated)
    if not keep_graph:
        output, product = output.detach(), [entry.detach() for entry in product]
    if flags.has_aux:
        return output, point.spec.rebuild(product), without_history(aux, keep_graph)
    return output, point.spec.rebuild(product)
