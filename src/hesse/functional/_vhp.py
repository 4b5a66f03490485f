"""``vhp``: a vector times the Hessian of a scalar function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from hesse._autograd.arguments import Argnums, Flags
from hesse._autograd.gradients import Gradients, gradients, require_connection
from hesse.functional import _compiling as compiling
from hesse.functional._hessian_product import hessian_product


def vhp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any = None,
    create_graph: bool = False,
    strict: bool = False,
    *,
    has_aux: bool = False,
    argnums: Argnums = None,
) -> Any:
    r"""Product of a vector with the Hessian of a scalar function, :math:`v^\top \nabla^2 f(x)`.

    Keeps the contract of ``torch.autograd.functional.vhp`` and works in more places: under inference mode,
    inside torch.func transforms, on compiled functions, on dicts, lists and nested inputs. Costs one
    evaluation of ``func``, its gradient, and a backward through both.

    Args:
        func: takes the inputs, returns a real tensor with a single element, of any shape.
        inputs: a floating-point or complex tensor, or a structure of them. An outermost tuple is splatted
            into ``func``; a list, dict or dataclass is one argument.
        v: the vector: structure, shapes and devices of ``inputs``; any real dtype for a real input. May be
            left out when ``inputs`` holds a single element, and is then a one.
        create_graph: make output and product differentiable by the inputs that require gradients, by ``v``
            and by what ``func`` captures.
        strict: raise when some input is not connected to the output or to its gradient; otherwise the
            product of that input is zeros.
        has_aux: ``func`` returns ``(output, aux)``, and ``aux`` is returned as a third result.
        argnums: which arguments to differentiate by, as an index or a tuple of them, when not all; the
            others may be anything. ``v`` and the product then have the structure of those chosen.

    Returns:
        ``(output, product)``: ``func(inputs)`` in its own shape, and the product structured like ``inputs``,
        with their shapes and dtypes; with ``has_aux``, ``(output, product, aux)``.

    Raises:
        TypeError: something in ``inputs``, ``v`` or the outputs is no tensor.
        RuntimeError: ``v`` does not fit, ``func`` returns no single element, or strict mode finds an
            unconnected input.

    Source:
        The contract: https://docs.pytorch.org/docs/stable/generated/torch.autograd.functional.vhp.html

    Example:
        >>> import torch, hesse
        >>> x, v = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 10.0])
        >>> hesse.vhp(lambda x: (x**3).sum(), x, v)
        (tensor(9.), tensor([  6., 120.]))
    """
    flags = Flags(create_graph, strict, has_aux, argnums)
    if (traced := compiling.traced(compiling.vhp, func, inputs, v, flags)) is not None:
        return traced
    return hessian_product("vhp", multiply, func, inputs, v, flags)


def multiply(
    gradient: Gradients, x: Sequence[Tensor], vector: Sequence[Tensor], flags: Flags, keep_graph: bool
) -> Gradients:
    """vᵀ·∂gradient/∂x: one backward through the gradient's graph."""
    products = gradients(gradient, x, vector, create_graph=keep_graph)
    if flags.strict:
        require_connection(products, "double_back", flags.create_graph)
    return products
