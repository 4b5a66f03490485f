"""``hvp``: the Hessian of a scalar function times a vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from hesse._autograd.arguments import Argnums, Flags
from hesse._autograd.evaluation import zeros_variable_like
from hesse._autograd.gradients import Gradients, followed_gradients, gradients, require_connection, require_hessian
from hesse._autograd.missing import MissingDerivative
from hesse.functional import _compiling as compiling
from hesse.functional._hessian_product import hessian_product


def hvp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any = None,
    create_graph: bool = False,
    strict: bool = False,
    *,
    has_aux: bool = False,
    argnums: Argnums = None,
) -> Any:
    r"""Product of the Hessian of a scalar function with a vector, :math:`\nabla^2 f(x)\, v`.

    Keeps the contract of ``torch.autograd.functional.hvp``. Where the Hessian is symmetric, as it is for
    every function whose gradient is truly its gradient, :func:`hesse.vhp` gives the same for less: this one
    differentiates once more (the double-backward trick), so that it is right also where a custom backward
    makes the matrix unsymmetric.

    Args:
        func: takes the inputs, returns a real tensor with a single element, of any shape.
        inputs: a floating-point or complex tensor, or a structure of them. An outermost tuple is splatted
            into ``func``; a list, dict or dataclass is one argument.
        v: the vector: structure, shapes and devices of ``inputs``; any real dtype for a real input. May be
            left out when ``inputs`` holds a single element, and is then a one.
        create_graph: make output and product differentiable by the inputs that require gradients, by ``v``
            and by what ``func`` captures.
        strict: raise when some input is not connected to the output, its gradient or its Hessian; otherwise
            the product of that input is zeros.
        has_aux: ``func`` returns ``(output, aux)``, and ``aux`` is returned as a third result.
        argnums: which arguments to differentiate by, as an index or a tuple of them, when not all.

    Returns:
        ``(output, product)``, the product structured like ``inputs``; with ``has_aux``,
        ``(output, product, aux)``.

    Raises:
        TypeError: something in ``inputs``, ``v`` or the outputs is no tensor.
        RuntimeError: ``v`` does not fit, ``func`` returns no single element, or strict mode finds an
            unconnected input.

    Source:
        The contract: https://docs.pytorch.org/docs/stable/generated/torch.autograd.functional.hvp.html

    Example:
        >>> import torch, hesse
        >>> x, v = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 10.0])
        >>> hesse.hvp(lambda x: x.prod() ** 2, x, v)
        (tensor(4.), tensor([88., 28.]))
    """
    flags = Flags(create_graph, strict, has_aux, argnums)
    if (traced := compiling.traced(compiling.hvp, func, inputs, v, flags)) is not None:
        return traced
    return hessian_product("hvp", multiply, func, inputs, v, flags)


def multiply(
    gradient: Gradients, x: Sequence[Tensor], vector: Sequence[Tensor], flags: Flags, keep_graph: bool
) -> Gradients:
    """∂gradient/∂x·v: a backward through the graph of the backward with weights, differentiated by the weights."""
    weights = [zeros_variable_like(leaf) for leaf in x]
    try:
        transposed = followed_gradients(gradient, x, weights)
    except MissingDerivative:
        if flags.strict:
            # What autograd cannot follow may be all there is, and then the contract has a sentence of its own.
            require_hessian(gradients(gradient, x, weights, create_graph=True))
        raise
    if flags.strict:
        require_hessian(transposed)
    products = gradients(transposed, weights, vector, create_graph=keep_graph)
    if flags.strict:
        require_connection(products, "double_back_trick", flags.create_graph)
    return products
