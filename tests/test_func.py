"""The curried product in torch.func's style."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hesse

DOUBLE = torch.float64


def cubic(x: Tensor, factor: float = 1.0) -> Tensor:
    return factor * (x**3).sum() + x.prod()


X = torch.randn(3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
V = torch.randn(3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))


def test_it_multiplies_by_the_hessian() -> None:
    torch.testing.assert_close(hesse.func.hvp(cubic)(X[0], V[0]), torch.func.hessian(cubic)(X[0]) @ V[0])
    torch.testing.assert_close(hesse.func.hvp(cubic)(X[0], 2.0, V[0]), torch.func.hessian(cubic)(X[0], 2.0) @ V[0])


def test_it_composes_with_transforms() -> None:
    product = hesse.func.hvp(cubic)
    each = torch.stack([torch.func.hessian(cubic)(x) @ v for x, v in zip(X, V, strict=True)])
    torch.testing.assert_close(torch.vmap(product)(X, V), each)
    torch.testing.assert_close(torch.func.jacrev(product, argnums=1)(X[0], V[0]), torch.func.hessian(cubic)(X[0]))
    third = torch.func.jacrev(torch.func.hessian(cubic))(X[0])
    torch.testing.assert_close(torch.func.jacrev(product)(X[0], V[0]), torch.einsum("ijk,j->ik", third, V[0]))


def test_results_require_gradients_only_where_something_does() -> None:
    assert not hesse.func.hvp(cubic)(X[0], V[0]).requires_grad
    x = X[0].clone().requires_grad_()
    (got,) = torch.autograd.grad(hesse.func.hvp(cubic)(x, V[0]).sum(), x)
    expected = torch.func.grad(lambda x: (torch.func.hessian(cubic)(x) @ V[0]).sum())(X[0])
    torch.testing.assert_close(got, expected)


def test_it_gives_auxiliary_output_and_chosen_arguments() -> None:
    product = hesse.func.hvp(lambda name, x: (cubic(x), name), argnums=1, has_aux=True)
    value, aux = product("name", X[0], V[0])
    torch.testing.assert_close(value, torch.func.hessian(cubic)(X[0]) @ V[0])
    assert aux == "name"
    first, second = hesse.func.hvp(lambda x, y: (x * y**2).sum(), argnums=(0, 1))(X[0], X[1], (V[0], V[1]))
    torch.testing.assert_close(first, 2 * X[1] * V[1])
    torch.testing.assert_close(second, 2 * X[1] * V[0] + 2 * X[0] * V[1])


def test_it_compiles_whole() -> None:
    compiled = torch.compile(hesse.func.hvp(cubic), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X[0], V[0]), torch.func.hessian(cubic)(X[0]) @ V[0])


def test_a_missing_vector_is_named() -> None:
    with pytest.raises(TypeError, match="followed by the vector but got 1 arguments"):
        hesse.func.hvp(cubic)(X[0])
