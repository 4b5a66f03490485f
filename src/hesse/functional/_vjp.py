"""``vjp``: a vector times the Jacobian of a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hesse._autograd.arguments import (
    Argnums,
    Flags,
    check_cotangent,
    check_point,
    evaluate,
    without_history,
)
from hesse._autograd.evaluation import constant, differentiate, inside_transform
from hesse._autograd.gradients import gradients, require_connection, unaliased, zeros_where_none
from hesse._autograd.refusal import located
from hesse.functional import _compiling as compiling


def vjp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any = None,
    create_graph: bool = False,
    strict: bool = False,
    *,
    has_aux: bool = False,
    argnums: Argnums = None,
) -> Any:
    r"""Product of a vector with the Jacobian of a function, :math:`v^\top J_f(x)`.

    Keeps the contract of ``torch.autograd.functional.vjp``; ``v`` is checked after ``func`` has run.

    Args:
        func: takes the inputs, returns a tensor or a structure of tensors.
        inputs: a floating-point or complex tensor, or a structure of them; an outermost tuple is splatted.
        v: the vector: structure, shapes and devices of the outputs. May be left out when the output is a
            single element, and is then a one.
        create_graph: make outputs and product differentiable.
        strict: raise when some input is not connected to the outputs; otherwise its product is zeros.
        has_aux: ``func`` returns ``(outputs, aux)``, and ``aux`` is returned as a third result.
        argnums: which arguments to differentiate by, as an index or a tuple of them, when not all.

    Returns:
        ``(outputs, product)``, the product structured like ``inputs``; with ``has_aux`` also ``aux``.

    Raises:
        TypeError: something in ``inputs``, ``v`` or the outputs is no tensor.
        RuntimeError: ``v`` does not fit the outputs, or strict mode finds an unconnected input.

    Source:
        The contract: https://docs.pytorch.org/docs/stable/generated/torch.autograd.functional.vjp.html

    Example:
        >>> import torch, hesse
        >>> hesse.functional.vjp(lambda x: x**2, torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]))
        (tensor([1., 9.]), tensor([2., 6.]))
    """
    flags = Flags(create_graph, strict, has_aux, argnums)
    if (traced := compiling.traced(compiling.vjp, func, inputs, v, flags)) is not None:
        return traced
    point = check_point("vjp", func, inputs, argnums)
    keep_graph = create_graph or inside_transform()

    def product_at(x: tuple[Tensor, ...]) -> Any:
        outputs, outputs_spec, aux = evaluate("vjp", point, x, strict, has_aux)
        entries = check_cotangent("vjp", v, outputs, outputs_spec)
        cotangents = [constant(entry, keep_graph) for entry in entries]
        products = gradients(outputs, x, cotangents, create_graph=keep_graph)
        if strict:
            require_connection(products, "back", create_graph)
        product = unaliased(zeros_where_none(products, x), cotangents)
        return outputs_spec.rebuild(outputs), point.spec.rebuild(product), aux

    result = located("vjp", func, inputs, lambda: differentiate(product_at, point.leaves, create_graph))
    result = without_history(result, keep_graph)
    return result if has_aux else result[:2]
