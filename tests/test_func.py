"""The curried product in torch.func's style."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hesse
from hesse._linearize.program.backends import EAGER

from .linearize import programs

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


# One program of the whole product


@pytest.fixture
def without_a_compiler():
    with programs.running(EAGER):
        yield


@pytest.mark.usefixtures("without_a_compiler")
@pytest.mark.parametrize("make", [hesse.func.hvp, hesse.func.vhp])
@pytest.mark.one_in(2)
def test_a_compiled_product_is_right_at_every_point_and_layout(make) -> None:
    product = make(cubic, engine="compiled")
    for step in range(5):
        x = X[0] + 0.1 * step
        torch.testing.assert_close(product(x, V[0]), torch.func.hessian(cubic)(x) @ V[0])
    found = product(X[:2], V[:2])
    expected = torch.einsum("abcd,cd->ab", torch.func.hessian(cubic)(X[:2]), V[:2])
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


@pytest.mark.usefixtures("without_a_compiler")
def test_a_compiled_product_reads_other_arguments_anew_and_returns_auxiliary_output() -> None:
    product = hesse.func.hvp(lambda y, x: ((x**2 * y).sum(), x.sum()), argnums=1, has_aux=True, engine="compiled")
    for step in (1.0, 2.0, 3.0):
        found, aux = product(step * X[1], X[0], V[0].float())
        torch.testing.assert_close(found, 2 * step * X[1] * V[0].float())
        torch.testing.assert_close(aux, X[0].sum())


@pytest.mark.usefixtures("without_a_compiler")
def test_a_compiled_product_evaluates_once_and_refuses_a_derivative() -> None:
    stiffness = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    product = hesse.func.hvp(lambda x: stiffness * (x**3).sum(), engine="compiled", verify=False)
    found = product(X[0], V[0])
    torch.testing.assert_close(found.detach(), 12 * X[0] * V[0])
    with pytest.raises(
        RuntimeError, match=r'^A product by hvp with engine="compiled" has no derivative\. Use engine="tape"'
    ):
        found.sum().backward()
    with torch.no_grad():
        assert not product(X[1], V[1]).requires_grad


def test_a_compiled_product_refuses_transforms_and_unknown_engines() -> None:
    product = hesse.func.hvp(cubic, engine="compiled")
    with pytest.raises(RuntimeError, match=r"cannot run inside a torch\.func transform"):
        torch.vmap(product)(X, V)
    with pytest.raises(TypeError, match="func given to vhp should be callable"):
        hesse.func.vhp(None)
    with pytest.raises(ValueError, match='engine given to vhp should be "tape" or "compiled"'):
        hesse.func.vhp(cubic, engine="auto")
    with pytest.raises(RuntimeError, match="v has invalid size"):
        product(X[0], V)
