"""The curried form, in torch.func's style: a function in, a function out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hesse._autograd.arguments import Flags
from hesse._linearize.options import Verify
from hesse.functional import _compiling as compiling
from hesse.functional._compiled_product import CompiledProduct
from hesse.functional._gradient import Engine, Gradient, check_curried
from hesse.functional._hessian_product import hessian_product
from hesse.functional._vhp import multiply

__all__ = ["grad", "hvp", "value_and_grad", "vhp"]


def grad(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    engine: Engine = "tape",
    verify: Verify = True,
) -> Callable[..., Any]:
    r"""The function that computes the gradient of ``func``, :math:`x \mapsto \nabla f(x)`, as tensors to train on.

    What it returns are ordinary tensors of autograd. A loss of them, such as one of forces or a gradient penalty, is
    differentiated by ``backward()``: by every argument and captured tensor that requires a gradient, a module's
    parameters included. With ``engine="compiled"`` that backward is one compiled program, and no more.

    Args:
        func: takes any arguments, returns a real tensor with a single element.
        argnums: which argument to differentiate by, or a tuple of them; the first when left out.
        has_aux: ``func`` returns ``(output, aux)``, and ``(gradient, aux)`` is returned.
        engine: ``"tape"`` composes with torch.func's transforms, and its results are differentiable any number of
            times. ``"compiled"`` makes one program for each layout of the arguments, eight at most; others run without
            a program, after one warning. Its results are differentiable once.
        verify: where a program is compared with the tape, gradient and the backward of a random vector: True at calls
            1, 2, 4, 8 and so on, ``"always"`` at every one, False at the first.

    Returns:
        A function of the arguments of ``func``, which returns the gradient, structured like the argument (or like a
        tuple of the arguments) that ``argnums`` names.

    Raises:
        CaptureError: ``engine="compiled"`` cannot take ``func``; the sentence names the operator or the line.
        RuntimeError: ``func`` returns no single element, or does not depend on what it is differentiated by.

    Example:
        >>> import torch, hesse
        >>> stiffness = torch.tensor(3.0, requires_grad=True)
        >>> slope = hesse.func.grad(lambda x: stiffness * (x**2).sum() / 2)
        >>> force = -slope(torch.tensor([1.0, 2.0]))
        >>> ((force + 1) ** 2).sum().backward()
        >>> stiffness.grad
        tensor(24.)
    """
    gradient = Gradient("grad", func, argnums, has_aux=has_aux, has_value=False, engine=engine, verify=verify)

    def compute(*arguments: Any, **keywords: Any) -> Any:
        _, found, aux = gradient(*arguments, **keywords)
        return (found, aux) if has_aux else found

    return compute


def value_and_grad(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    engine: Engine = "tape",
    verify: Verify = True,
) -> Callable[..., Any]:
    r"""The function that computes value and gradient in one evaluation, :math:`x \mapsto (f(x), \nabla f(x))`.

    Both are differentiable as the gradient of :func:`hesse.func.grad` is; the arguments are the same.

    Returns:
        A function that returns ``(value, gradient)``; with ``has_aux``, ``((value, aux), gradient)``.

    Raises:
        CaptureError, RuntimeError: as :func:`hesse.func.grad`.

    Example:
        >>> import torch, hesse
        >>> with torch.no_grad():
        ...     hesse.func.value_and_grad(lambda x: (x**3).sum())(torch.tensor([1.0, 2.0]))
        (tensor(9.), tensor([ 3., 12.]))
    """
    both = Gradient("value_and_grad", func, argnums, has_aux=has_aux, has_value=True, engine=engine, verify=verify)

    def compute(*arguments: Any, **keywords: Any) -> Any:
        value, found, aux = both(*arguments, **keywords)
        return ((value, aux) if has_aux else value), found

    return compute


def hvp(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    engine: Engine = "tape",
    verify: Verify = True,
) -> Callable[..., Any]:
    r"""The function that multiplies the Hessian of ``func`` with a vector: :math:`(x, v) \mapsto \nabla^2 f(x)\, v`.

    With ``engine="tape"`` it composes with torch.func's transforms and with autograd: the product is differentiable by
    whatever requires gradients, as the results of torch.func are.

    Args:
        func: takes any arguments, returns a real tensor with a single element.
        argnums: which argument to differentiate by, or a tuple of them; the first when left out.
        has_aux: ``func`` returns ``(output, aux)``, and ``(product, aux)`` is returned.
        engine: ``"compiled"`` makes one program of the whole product for each layout of the arguments, eight at most,
            and runs it at every point. Its results have no derivative, and a backward says so.
        verify: where a program is compared with the tape: True at calls 1, 2, 4, 8 and so on, ``"always"`` at every
            one, False at the first.

    Returns:
        A function of the arguments of ``func`` followed by the vector, which is structured like the argument
        (or like a tuple of the arguments) that ``argnums`` names.

    Raises:
        TypeError: the vector is missing, or something to differentiate by is no tensor.
        RuntimeError: the vector does not fit, or ``func`` returns no single element.
        CaptureError: ``engine="compiled"`` cannot take ``func``, or there were eight layouts already.

    Example:
        >>> import torch, hesse
        >>> product = hesse.func.hvp(lambda x: (x**3).sum())
        >>> product(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 10.0]))
        tensor([  6., 120.])
        >>> torch.vmap(product, in_dims=(None, 0))(torch.tensor([1.0, 2.0]), torch.eye(2))
        tensor([[ 6.,  0.],
                [ 0., 12.]])
    """
    return _curried("hvp", func, argnums, has_aux, engine, verify)


def vhp(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    engine: Engine = "tape",
    verify: Verify = True,
) -> Callable[..., Any]:
    r"""The function that multiplies a vector with the Hessian of ``func``, :math:`(x, v) \mapsto v^\top \nabla^2 f(x)`.

    The Hessian is symmetric: this is :func:`hesse.func.hvp`, with the same arguments, under the contract's name.

    Returns:
        A function of the arguments of ``func`` followed by the vector, which is structured like the argument
        (or like a tuple of the arguments) that ``argnums`` names.

    Raises:
        TypeError, RuntimeError, CaptureError: as :func:`hesse.func.hvp`.

    Example:
        >>> import torch, hesse
        >>> hesse.func.vhp(lambda x: (x**3).sum())(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 10.0]))
        tensor([  6., 120.])
    """
    return _curried("vhp", func, argnums, has_aux, engine, verify)


def _curried(
    name: str,
    func: Callable[..., Any],
    argnums: int | tuple[int, ...],
    has_aux: bool,
    engine: Engine,
    verify: Verify,
) -> Callable[..., Any]:
    check_curried(name, func, has_aux, engine, verify)
    compiled = CompiledProduct(name, func, argnums, has_aux=has_aux, verify=verify) if engine == "compiled" else None

    def product(*arguments_and_v: Any) -> Any:
        if len(arguments_and_v) < 2:
            raise TypeError(
                f"A function made by hesse.func.{name} takes the arguments of the original function followed by the"
                f" vector but got {len(arguments_and_v)} arguments."
            )
        *arguments, v = arguments_and_v
        inputs = tuple(arguments)
        if compiled is not None:
            found, aux = compiled(inputs, v)
            return (found, aux) if has_aux else found
        flags = Flags(create_graph=torch.compiler.is_compiling(), strict=False, has_aux=has_aux, argnums=argnums)
        results = compiling.traced(compiling.vhp, func, inputs, v, flags)
        if results is None:
            results = hessian_product(name, multiply, func, inputs, v, flags, as_transform=True)
        return results[1:] if has_aux else results[1]

    return product
