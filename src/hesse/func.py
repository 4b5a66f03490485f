"""The curried form, in torch.func's style: a function in, a function out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hesse._autograd.arguments import Flags
from hesse.functional import _compiling as compiling
from hesse.functional._hessian_product import hessian_product
from hesse.functional._vhp import multiply


def hvp(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Any]:
    r"""The function that multiplies the Hessian of ``func`` with a vector: :math:`(x, v) \mapsto \nabla^2 f(x)\, v`.

    Composes with torch.func's transforms and with autograd: the product is differentiable by whatever
    requires gradients, as the results of torch.func are.

    Args:
        func: takes any arguments, returns a real tensor with a single element.
        argnums: which argument to differentiate by, or a tuple of them; the first when left out.
        has_aux: ``func`` returns ``(output, aux)``, and ``(product, aux)`` is returned.

    Returns:
        A function of the arguments of ``func`` followed by the vector, which is structured like the argument
        (or like a tuple of the arguments) that ``argnums`` names.

    Raises:
        TypeError: the vector is missing, or something to differentiate by is no tensor.
        RuntimeError: the vector does not fit, or ``func`` returns no single element.

    Example:
        >>> import torch, hesse
        >>> product = hesse.func.hvp(lambda x: (x**3).sum())
        >>> product(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 10.0]))
        tensor([  6., 120.])
        >>> torch.vmap(product, in_dims=(None, 0))(torch.tensor([1.0, 2.0]), torch.eye(2))
        tensor([[ 6.,  0.],
                [ 0., 12.]])
    """

    def product(*arguments_and_v: Any) -> Any:
        if len(arguments_and_v) < 2:
            raise TypeError(
                "A function made by hesse.func.hvp takes the arguments of the original function followed by the"
                f" vector but got {len(arguments_and_v)} arguments."
            )
        *arguments, v = arguments_and_v
        inputs = tuple(arguments)
        flags = Flags(create_graph=torch.compiler.is_compiling(), strict=False, has_aux=has_aux, argnums=argnums)
        try:
            traced = torch.compiler.is_compiling()
            results = compiling.vhp(func, inputs, v, flags) if traced else None
        except compiling.Broken:
            results = None
        if results is None:
            results = hessian_product("hvp", multiply, func, inputs, v, flags, as_transform=True)
        return results[1:] if has_aux else results[1]

    return product
