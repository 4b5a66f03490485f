"""Custom functions whose backward autograd cannot follow: refused by name wherever that backward is differentiated."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hesse
from hesse import functional

from ..functional.references import DOUBLE, assert_values, dense_product
from . import custom_functions as custom

pytestmark = pytest.mark.usefixtures("uncompiled")

OPAQUE = (custom.WithoutGraph, custom.Detached, custom.Marked, custom.InnerGradient, custom.Numpy)
X = torch.tensor([[0.5, -1.0], [1.5, 2.0]], dtype=DOUBLE)
V = torch.tensor([[1.0, 0.5], [-1.0, 2.0]], dtype=DOUBLE)

BEHIND: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda y: y,
    "a square": lambda y: y**2,
    "a sum with a path around it": lambda y: (y + X) ** 2,
}


class Net(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2, dtype=DOUBLE)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y + self.function(y)


def products(function: Any) -> dict[str, Callable[[], object]]:
    """All that differentiates a backward of the function."""
    scalar = lambda x: function(x).sum()  # noqa: E731  # a function in one line
    model = lambda: Net(function)  # noqa: E731  # a function in one line
    mse = nn.MSELoss()
    data = (X, V)
    n = torch.ones(6, dtype=DOUBLE)
    return {
        "vhp": lambda: hesse.vhp(scalar, X, V),
        "hvp": lambda: hesse.hvp(scalar, X, V),
        "hessian": lambda: functional.hessian(scalar, X),
        "jvp": lambda: functional.jvp(function, X, V),
        "Hessian": lambda: hesse.Hessian(scalar, X),
        "Hessian of independent problems": lambda: hesse.Hessian(lambda x: function(x).sum(1), X, batch_dim=0),
        "Hessian with create_graph": lambda: hesse.Hessian(scalar, X, create_graph=True),
        "Hessian, compiled": lambda: hesse.Hessian(scalar, X, engine="compiled"),
        "Jacobian": lambda: hesse.Jacobian(function, X) @ V,
        "LossHessian": lambda: hesse.LossHessian(model(), mse, data) @ n,
        "LossHessian, compiled": lambda: hesse.LossHessian(model(), mse, data, engine="compiled") @ n,
        "GaussNewton": lambda: hesse.GaussNewton(model(), mse, data) @ n,
        "Fisher": lambda: hesse.Fisher(model(), mse, data) @ n,
        "EmpiricalFisher": lambda: hesse.EmpiricalFisher(model(), mse, data) @ n,
        "data_block": lambda: hesse.LossHessian(model(), mse, data).data_block(0),
    }


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("function", OPAQUE)
@pytest.mark.private
def test_an_opaque_function_is_refused_by_name_and_line(function: Any, behind: str) -> None:
    def cubed(x: Tensor) -> Tensor:
        return function.apply(x)

    line = inspect.getsourcelines(cubed)[1] + 1
    for product in (hesse.vhp, hesse.hvp, lambda func, x, v: hesse.Hessian(func, x)):
        with pytest.raises(hesse.NoDerivativeError, match=f"Function {function.__name__} ") as caught:
            product(lambda x: BEHIND[behind](cubed(x)).sum(), X, V)
        assert caught.value.operator == function.__name__
        assert caught.value.place == f"{__file__}:{line}"


@pytest.mark.parametrize("name", products(custom.Cube.apply))
@pytest.mark.parametrize("function", [custom.WithoutGraph, custom.Marked])
def test_every_operator_and_engine_refuses_it(function: Any, name: str) -> None:
    with pytest.raises(hesse.NoDerivativeError, match=f"Function {function.__name__} "):
        products(function.apply)[name]()


@pytest.mark.parametrize("function", [custom.WithoutGraph, custom.Detached, custom.Marked])
@pytest.mark.private
def test_transforms_refuse_it(function: Any) -> None:
    scalar = lambda x: (function.apply(x) ** 2).sum()  # noqa: E731  # a function in one line
    for product in (
        lambda: hesse.func.hvp(scalar)(X, V),
        lambda: torch.vmap(lambda v: hesse.vhp(scalar, X, v)[1])(V[None]),
        lambda: torch.vmap(lambda x: hesse.vhp(scalar, x, V)[1])(X[None]),
    ):
        with pytest.raises(hesse.NoDerivativeError, match=f"Function {function.__name__} "):
            product()


def test_one_gradient_of_several_without_history_is_enough() -> None:
    with pytest.raises(hesse.NoDerivativeError, match="Function Product "):
        hesse.vhp(lambda x: custom.Product.apply(x.sin(), 2.0, x.cos()).square().sum(), X, V)


def test_the_gradient_by_a_constant_may_have_no_history() -> None:
    """It is not asked for, though the constant requires gradients."""
    constant = V.clone().requires_grad_()
    product = hesse.vhp(lambda x: custom.Product.apply(x, 2.0, constant).square().sum(), X, V)[1]
    assert_values(product, 8 * V**2 * V)


def test_a_second_derivative_without_a_graph_of_its_own_is_refused_where_it_is_differentiated() -> None:
    scalar = lambda x: custom.Opaque2.apply(x).sum()  # noqa: E731  # a function in one line
    assert_values(hesse.vhp(scalar, X, V)[1], 6 * X * V)
    with pytest.raises(hesse.NoDerivativeError, match="Function _Slope "):
        hesse.hvp(scalar, X, V)


@pytest.mark.parametrize("function", OPAQUE)
def test_first_derivatives_of_it_are_exact(function: Any) -> None:
    if function not in (custom.Numpy, custom.InnerGradient):  # PyTorch's vmap refuses what they do
        assert_values(torch.vmap(lambda v: functional.vjp(function.apply, X, v)[1])(V[None]), 3 * (X**2 * V)[None])
    assert_values(functional.vjp(function.apply, X, V)[1], 3 * X**2 * V)
    assert_values(functional.jacobian(function.apply, X).reshape(4, 4), torch.diag(3 * X.reshape(-1) ** 2))
    assert_values(hesse.Jacobian(function.apply, X).T @ V, 3 * X**2 * V)


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("function", [custom.Tripled, custom.Sign, custom.MarkedSign])
@pytest.mark.one_in(3)
def test_gradients_that_rightly_have_no_history_are_no_reason_to_refuse(function: Any, behind: str) -> None:
    def func(x: Tensor) -> Tensor:
        return (BEHIND[behind](function.apply(x)) + x**3).sum()

    (expected,) = dense_product(func, (X,), (V,))
    for product in (
        hesse.vhp(func, X, V)[1],
        hesse.hvp(func, X, V)[1],
        hesse.Hessian(func, X) @ V,
        hesse.Hessian(func, X, engine="compiled") @ V,
        hesse.func.hvp(func)(X, V),
        torch.vmap(lambda v: hesse.vhp(func, X, v)[1])(V[None])[0],
    ):
        assert_values(product, expected, rtol=1e-7, atol=1e-7)
    slope = 3.0 if function is custom.Tripled else 0.0
    assert_values(hesse.Jacobian(function.apply, X) @ V, slope * V)


def test_an_output_with_a_constant_cotangent_is_no_reason_to_refuse() -> None:
    def func(x: Tensor) -> Tensor:
        cubes, doubled = custom.Pair.apply(x, x.clone())
        return (cubes**2 + doubled).sum()

    assert_values(hesse.vhp(func, X, V)[1], 30 * X**4 * V)


def test_nothing_of_the_search_stays_on_a_graph_of_the_users() -> None:
    leaf = X.clone().requires_grad_()
    y = custom.WithoutGraph.apply(leaf)
    assert_values(hesse.vhp(lambda x: (x**2).sum() + y.sum(), X, V)[1], 2 * V)
    assert_values(torch.autograd.grad(y, leaf, V, create_graph=True)[0], 3 * X**2 * V)


def test_a_backward_that_takes_what_it_saved_for_constants_is_found_by_check_alone() -> None:
    class Constant(custom.Cube):
        @staticmethod
        def backward(ctx: Any, cotangent: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 3 * x.detach() ** 2 * cotangent

    (finding,) = hesse.check(lambda x: Constant.apply(x).sum(), X, rng=0).findings
    assert (finding.kind, finding.operator) == ("wrong", "Constant")


CUBE_IN_CPP = """
#include <torch/extension.h>

struct CubeInCpp : public torch::autograd::Function<CubeInCpp> {
  static torch::Tensor forward(torch::autograd::AutogradContext* ctx, torch::Tensor x) {
    ctx->save_for_backward({x});
    return x * x * x;
  }
  static torch::autograd::tensor_list backward(
      torch::autograd::AutogradContext* ctx, torch::autograd::tensor_list cotangents) {
    at::NoGradGuard guard;
    auto x = ctx->get_saved_variables()[0];
    return {3 * x * x * cotangents[0]};
  }
};

torch::Tensor cube(torch::Tensor x) { return CubeInCpp::apply(x); }
"""


@pytest.mark.exhaustive
@pytest.mark.private
def test_a_function_in_cpp_is_refused_by_name(tmp_path: Any) -> None:
    from torch.utils.cpp_extension import load_inline

    extension = load_inline("cube_in_cpp", CUBE_IN_CPP, functions=["cube"], build_directory=str(tmp_path))
    with pytest.raises(hesse.NoDerivativeError, match="Function CubeInCpp "):
        hesse.vhp(lambda x: extension.cube(x).sum(), X, V)
    assert_values(functional.vjp(extension.cube, X, V)[1], 3 * X**2 * V)
