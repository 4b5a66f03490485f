"""Section 4, row 6: auxiliary outputs and the choice of arguments, for all of the family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hesse import functional

from .families import PRODUCTS, each_product
from .references import DOUBLE, assert_values, has_no_history

FAMILY = {name: getattr(functional, name) for name in ("vhp", "hvp", "vjp", "jvp", "jacobian", "hessian")}


def _with_aux(x: Tensor) -> tuple[Tensor, dict[str, Any]]:
    return (x**3).sum(), {"mean": x.mean(), "note": "kept", "nothing": None}


@each_product
def test_has_aux_gives_a_third_result_that_may_hold_anything(name: str) -> None:
    x, v = torch.rand(3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)
    output, product, aux = PRODUCTS[name](_with_aux, x, v, has_aux=True)
    assert_values((output, product, aux["mean"]), ((x**3).sum(), 6 * x * v, x.mean()))
    assert has_no_history(aux["mean"])
    assert aux["note"] == "kept"
    assert aux["nothing"] is None


@each_product
def test_aux_is_differentiable_with_create_graph(name: str) -> None:
    x, v = torch.rand(3, dtype=DOUBLE, requires_grad=True), torch.rand(3, dtype=DOUBLE)
    aux = PRODUCTS[name](_with_aux, x, v, create_graph=True, has_aux=True)[2]
    (gradient,) = torch.autograd.grad(aux["mean"], x)
    assert_values(gradient, torch.full_like(x, 1 / 3))


@each_product
def test_aux_comes_out_of_vmap(name: str) -> None:
    points = torch.rand(2, 3, dtype=DOUBLE)
    aux = torch.func.vmap(lambda x: PRODUCTS[name](_with_aux, x, x, has_aux=True)[2]["mean"])(points)
    assert_values(aux, points.mean(1))


def test_has_aux_of_the_neighbors() -> None:
    x, v = torch.rand(3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)

    def exp(x: Tensor) -> tuple[Tensor, str]:
        return x.exp(), "kept"

    for name in ("vjp", "jvp"):
        output, product, aux = FAMILY[name](exp, x, v, has_aux=True)
        assert_values((output, product), (x.exp(), x.exp() * v))
        assert aux == "kept"
    for vectorize in (False, True):
        assert_values(functional.jacobian(exp, x, vectorize=vectorize, has_aux=True)[0], torch.diag(x.exp()))
        blocks, aux = functional.hessian(_with_aux, x, vectorize=vectorize, has_aux=True)
        assert_values(blocks, torch.diag(6 * x))
        assert aux["note"] == "kept"


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("returned", [3, (1, 2, 3), "output"], ids=["one", "triple", "text"])
def test_has_aux_of_a_function_that_returns_no_pair_is_refused(name: str, returned: Any) -> None:
    with pytest.raises(TypeError, match=f"The function given to {name} with has_aux=True should return a pair"):
        FAMILY[name](lambda x: returned, torch.rand(1), has_aux=True)


def _weighted(a: Tensor, power: int, b: Tensor) -> Tensor:
    return (a**2 * b**power).sum()


@each_product
@pytest.mark.parametrize("argnums", [0, -3])
def test_argnums_as_an_index_gives_the_product_of_that_argument(name: str, argnums: int) -> None:
    a, b, v = (torch.rand(3, dtype=DOUBLE) for _ in range(3))
    product = PRODUCTS[name](_weighted, (a, 3, b), v, argnums=argnums)[1]
    assert_values(product, 2 * b**3 * v)


@each_product
def test_argnums_as_a_tuple_gives_the_products_in_its_order(name: str) -> None:
    a, b, v, w = (torch.rand(3, dtype=DOUBLE) for _ in range(4))
    product = PRODUCTS[name](_weighted, (a, 3, b), (w, v), argnums=(2, 0))[1]
    by_b = 6 * a**2 * b * w + 6 * a * b**2 * v
    by_a = 6 * a * b**2 * w + 2 * b**3 * v
    assert_values(product, (by_b, by_a))
    one = PRODUCTS[name](_weighted, (a, 3, b), (v,), argnums=(0,))[1]
    assert_values(one, (2 * b**3 * v,))


@each_product
def test_argnums_of_a_structure(name: str) -> None:
    a, b, v = (torch.rand(3, dtype=DOUBLE) for _ in range(3))
    product = PRODUCTS[name](lambda data, p: (data * p["w"] ** 3).sum(), (a, {"w": b}), {"w": v}, argnums=1)[1]
    assert_values(product["w"], 6 * a * b * v)


def test_argnums_of_the_neighbors() -> None:
    a, b, v = (torch.rand(3, dtype=DOUBLE) for _ in range(3))

    def func(n: int, a: Tensor, b: Tensor) -> Tensor:
        return n * a**2 * b

    assert_values(functional.vjp(func, (2, a, b), v, argnums=1)[1], 4 * a * b * v)
    assert_values(functional.jvp(func, (2, a, b), v, argnums=2)[1], 2 * a**2 * v)
    assert_values(functional.jacobian(func, (2, a, b), argnums=2), torch.diag(2 * a**2))
    blocks = functional.hessian(lambda *args: func(*args).sum(), (2, a, b), argnums=(1, 2))
    assert_values(blocks[0], (torch.diag(4 * b), torch.diag(4 * a)))


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(
    ("argnums", "message"),
    [
        (2, "argnums given to {} names argument 2, but inputs holds 2 arguments"),
        ((0, -3), "argnums given to {} names argument -3, but inputs holds 2 arguments"),
        ((0, -2), "argnums given to {} names the same argument twice"),
    ],
    ids=["too_large", "too_small", "twice"],
)
def test_argnums_that_name_no_argument_or_one_twice_are_refused(name: str, argnums: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.format(name)):
        FAMILY[name](lambda a, b: a, (torch.rand(1), torch.rand(1)), argnums=argnums)


@pytest.mark.parametrize("name", FAMILY)
def test_argnums_of_something_that_is_no_tensor_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"The inputs given to {name} must be .* has type <class 'int'>"):
        FAMILY[name](lambda a, b: a, (torch.rand(1), 3), argnums=1)
