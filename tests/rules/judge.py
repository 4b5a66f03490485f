"""What every rule has to pass: a function through its operator, multiplied in every way that hesse has."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils.checkpoint import checkpoint

import hesse
from hesse import functional
from tests.functional.references import assert_values, dense_hessian, dense_product

Function = Callable[..., Tensor]


def refusal(func: Function, inputs: Sequence[Tensor]) -> str:
    """What PyTorch says of a second derivative; empty when it has one, so that a rule is not needed any longer."""
    x = [leaf.detach().requires_grad_() for leaf in inputs]
    gradient = torch.autograd.grad(func(*x), x, create_graph=True, allow_unused=True)
    try:
        torch.autograd.grad([(entry**2).sum() for entry in gradient if entry is not None and entry.requires_grad], x)
    except RuntimeError as error:
        return str(error)
    return ""


def pytorch_differentiates_thrice(func: Function, inputs: Sequence[Tensor]) -> bool:
    """Whether PyTorch's own product is differentiable by the point, and rightly; then a rule may not be needed."""
    x = tuple([leaf.detach().requires_grad_() for leaf in inputs])

    def product(*x: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.functional.vhp(func, x, vectors_like(x), create_graph=True)[1]

    try:
        return gradcheck(product, x, fast_mode=True, raise_exception=False)
    except RuntimeError:
        return False


def vectors_like(inputs: Sequence[Tensor], seed: int = 1) -> tuple[Tensor, ...]:
    """A vector to multiply by."""
    generator = torch.Generator().manual_seed(seed)
    return tuple([torch.randn(leaf.shape, dtype=leaf.dtype, generator=generator) for leaf in inputs])


def assert_right(
    func: Function, inputs: tuple[Tensor, ...], rtol: float = 1e-6, atol: float = 1e-8, *, transforms: bool = True
) -> None:
    """Products of every kind agree with differences of the gradient, in float64; third derivatives with theirs.

    Not inside torch.func transforms without ``transforms``: where PyTorch's operator itself cannot run there.
    """
    close = {"rtol": rtol, "atol": atol}
    v = vectors_like(inputs)
    expected = dense_product(func, inputs, v)
    for product in (hesse.vhp, hesse.hvp):
        assert_values(product(func, inputs, v)[1], expected, **close)
    recomputed = lambda *x: checkpoint(func, *x, use_reentrant=False)  # noqa: E731  # a function in one line
    assert_values(hesse.vhp(recomputed, inputs, v)[1], expected, **close)

    H = hesse.Hessian(func, inputs)
    assert_values(H @ v, expected, **close)
    assert_values(H @ v, expected, **close)
    dense = dense_hessian(func, inputs)
    for batching in ("loop", "vmap"):
        assert_values(hesse.Hessian(func, inputs, batching=batching).to_dense(), dense, **close)
    assert_values(hesse.Hessian(recomputed, inputs).to_dense(), dense, **close)

    if not transforms:
        return
    few = tuple([torch.stack([entry, 2 * entry]) for entry in v])
    with warnings.catch_warnings():
        # What PyTorch says of operators of its own that it batches one by one.
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        rows = torch.func.vmap(lambda *v: hesse.vhp(func, inputs, v)[1])(*few)
        jacobian = functional.jacobian(lambda *x: torch.func.grad(func, argnums=0)(*x), inputs)[0]
    assert_values(rows, tuple([torch.stack([entry, 2 * entry]) for entry in expected]), **close)
    n = inputs[0].numel()
    assert_values(jacobian.reshape(n, n), dense[:n, :n], **close)


def assert_as_written_out(func: Function, same: Function, inputs: tuple[Tensor, ...], *, programs: bool = True) -> None:
    """Derivatives by every way are those of ``same``, which PyTorch differentiates rightly in both modes.

    Where PyTorch's gradient of ``func`` is wrong itself, its differences are no reference.
    """
    v = vectors_like(inputs)
    places = tuple(range(len(inputs)))
    gradient = torch.func.grad(same, argnums=places)
    assert_values(functional.vjp(func, inputs)[1], gradient(*inputs))
    expected = torch.autograd.functional.vhp(same, inputs, v)[1]
    for product in (hesse.vhp, hesse.hvp):
        assert_values(product(func, inputs, v)[1], expected)
    for batching in ("loop", "vmap"):
        H = hesse.Hessian(func, inputs, batching=batching)
        assert_values(H.unflatten(H.to_dense() @ H.flatten(v)), expected)
    if programs:
        assert_values(hesse.Hessian(func, inputs, engine="compiled") @ v, expected)
    tangent = torch.func.jvp(hesse.func.grad(func, argnums=places), inputs, v)[1]
    assert_values(tangent, expected)
    columns = functional.hessian(func, inputs, vectorize=True, outer_jacobian_strategy="forward-mode")
    for row, entry in zip(columns, expected, strict=True):
        products = [torch.tensordot(block, w, w.dim()) for block, w in zip(row, v, strict=True)]
        assert_values(sum(products), entry)
    third = [
        torch.func.grad(lambda *x: sum([entry.sin().sum() for entry in product(x)]), argnums=places)(*inputs)  # noqa: B023  # called at once
        for product in (
            lambda x: hesse.vhp(func, x, v)[1],
            lambda x: torch.func.jvp(gradient, x, v)[1],
        )
    ]
    assert_values(third[0], third[1])


def assert_thrice_differentiable(func: Function, inputs: tuple[Tensor, ...], *, transforms: bool = True) -> None:
    """The product with create_graph=True is differentiable by the point and by the vector."""
    x = tuple([leaf.detach().requires_grad_() for leaf in inputs])
    v = tuple([entry.requires_grad_() for entry in vectors_like(inputs)])

    def product(*leaves: Tensor) -> tuple[Tensor, ...]:
        return hesse.vhp(func, leaves[: len(x)], leaves[len(x) :], create_graph=True)[1]

    assert gradcheck(product, (*x, *v), fast_mode=True)
    if not transforms:
        return
    kept = hesse.vhp(func, x, v, create_graph=True)[1]
    inside = torch.func.grad(lambda *x: sum([entry.sum() for entry in hesse.vhp(func, x, v)[1]]))(*x)
    assert_values(torch.autograd.grad([entry.sum() for entry in kept], x)[0], inside)
