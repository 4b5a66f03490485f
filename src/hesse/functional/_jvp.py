"""``jvp``: the Jacobian of a function times a vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hesse._autograd.arguments import (
    Argnums,
    Flags,
    check_point,
    check_tangent,
    evaluate,
    without_history,
)
from hesse._autograd.evaluation import (
    constant,
    differentiate,
    inside_transform,
    zeros_variable_like,
)
from hesse._autograd.gradients import (
    followed_gradients,
    gradients,
    require_connection,
    require_trick,
    unaliased,
    zeros_where_none,
)
from hesse._autograd.refusal import located
from hesse.functional import _compiling as compiling


def jvp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any = None,
    create_graph: bool = False,
    strict: bool = False,
    *,
    has_aux: bool = False,
    argnums: Argnums = None,
) -> Any:
    r"""Product of the Jacobian of a function with a vector, :math:`J_f(x)\, v`.

    Keeps the contract of ``torch.autograd.functional.jvp``, which differentiates :math:`J^\top w` by
    :math:`w` (the double-backward trick); ``v`` is checked before ``func`` runs.

    Args:
        func: takes the inputs, returns a tensor or a structure of tensors.
        inputs: a floating-point or complex tensor, or a structure of them; an outermost tuple is splatted.
        v: the vector: structure, shapes and devices of ``inputs``. May be left out when ``inputs`` holds a
            single element, and is then a one.
        create_graph: make outputs and product differentiable.
        strict: raise when some input is not connected to the outputs; otherwise its part is zeros.
        has_aux: ``func`` returns ``(outputs, aux)``, and ``aux`` is returned as a third result.
        argnums: which arguments to differentiate by, as an index or a tuple of them, when not all.

    Returns:
        ``(outputs, product)``, the product structured like the outputs; with ``has_aux`` also ``aux``.

    Raises:
        TypeError: something in ``inputs``, ``v`` or the outputs is no tensor.
        RuntimeError: ``v`` does not fit the inputs, or strict mode finds an unconnected input.

    Source:
        The contract: https://docs.pytorch.org/docs/stable/generated/torch.autograd.functional.jvp.html

    Example:
        >>> import torch, hesse
        >>> hesse.functional.jvp(lambda x: x**2, torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]))
        (tensor([1., 9.]), tensor([2., 6.]))
    """
    flags = Flags(create_graph, strict, has_aux, argnums)
    if (traced := compiling.traced(compiling.jvp, func, inputs, v, flags)) is not None:
        return traced
    point = check_point("jvp", func, inputs, argnums)
    vector = check_tangent("jvp", v, point)
    keep_graph = create_graph or inside_transform()

    def product_at(x: tuple[Tensor, ...]) -> Any:
        tangents = [constant(entry, keep_graph) for entry in vector]
        outputs, outputs_spec, aux = evaluate("jvp", point, x, strict, has_aux)
        tracked = [output for output in outputs if output.requires_grad]
        weights = [zeros_variable_like(output) for output in tracked]
        transposed = followed_gradients(tracked, x, weights)
        if strict:
            require_trick(transposed)
        products = gradients(transposed, weights, tangents, create_graph=keep_graph)
        if strict:
            require_connection(products, "back_trick", create_graph)
        remaining = iter(products)
        aligned = tuple([next(remaining) if output.requires_grad else None for output in outputs])
        product = unaliased(zeros_where_none(aligned, outputs), tangents)
        return outputs_spec.rebuild(outputs), outputs_spec.rebuild(product), aux

    result = located("jvp", func, inputs, lambda: differentiate(product_at, point.leaves, create_graph))
    result = without_history(result, keep_graph)
    return result if has_aux else result[:2]
