"""Hooks that change gradients on their way: followed where autograd follows them, and refused where it does not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hesse
from hesse import functional

from ..functional.references import DOUBLE, assert_values

pytestmark = pytest.mark.usefixtures("uncompiled")

X = torch.tensor([0.5, -1.0, 1.5], dtype=DOUBLE)
V = torch.tensor([1.0, 0.5, -2.0], dtype=DOUBLE)
# Of the sum of x⁴.
PRODUCT = 12 * X**2 * V


def without_graph(gradient: Tensor) -> Tensor:
    with torch.no_grad():
        return 1.0 * gradient


def by_numpy(gradient: Tensor) -> Tensor:
    return torch.from_numpy(gradient.detach().numpy().copy())


def by_inner_gradient(gradient: Tensor) -> Tensor:
    leaf = torch.zeros_like(gradient, requires_grad=True)
    return torch.autograd.grad(leaf, leaf, gradient)[0].detach()


OPAQUE = (Tensor.detach, without_graph, by_numpy, by_inner_gradient)
FINE: tuple[Callable[[Tensor], Any], ...] = (
    lambda g: None,
    Tensor.clone,
    lambda g: g.clamp(-1e9, 1e9),
    lambda g: 1.0 * g,
)


def of_a_tensor(hook: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    def square(x: Tensor) -> Tensor:
        y = x**2
        y.register_hook(hook)
        return y

    return square


def of_a_node(hook: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    def on_results(results: tuple[Tensor, ...], cotangents: tuple[Tensor, ...]) -> Any:
        made = hook(results[0])
        return None if made is None else (made,)

    def square(x: Tensor) -> Tensor:
        y = x**2
        y.grad_fn.register_hook(on_results)
        return y

    return square


def before_a_node(hook: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    def on_cotangents(cotangents: tuple[Tensor, ...]) -> Any:
        made = hook(cotangents[0])
        return None if made is None else (made,)

    def square(x: Tensor) -> Tensor:
        y = x**2
        y.grad_fn.register_prehook(on_cotangents)
        return y

    return square


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x**2


def of_a_module(hook: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    def on_gradients(module: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> Any:
        made = hook(inputs[0])
        return None if made is None else (made,)

    module = Square()
    module.register_full_backward_hook(on_gradients)
    return module


def before_a_module(hook: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    def on_gradients(module: nn.Module, outputs: tuple[Tensor, ...]) -> Any:
        made = hook(outputs[0])
        return None if made is None else (made,)

    module = Square()
    module.register_full_backward_pre_hook(on_gradients)
    return module


def of_the_input(hook: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    def square(x: Tensor) -> Tensor:
        x.register_hook(hook)
        return x**2

    return square


PLACES = (of_a_tensor, of_a_node, before_a_node, of_a_module, before_a_module, of_the_input)
places = pytest.mark.parametrize("place", PLACES)


class Net(nn.Module):
    def __init__(self, square: Any) -> None:
        super().__init__()
        self.weight, self.square = nn.Parameter(X.clone()), square

    def forward(self, x: Tensor) -> Tensor:
        return self.square(x * self.weight)


def products(square: Any) -> dict[str, Callable[[], Tensor]]:
    """Products with the Hessian of the sum of x⁴, by all that makes them."""
    scalar = lambda x: (square(x) ** 2).sum()  # noqa: E731  # a function in one line
    data = (torch.ones(1, 3, dtype=DOUBLE), torch.zeros(1, 3, dtype=DOUBLE))
    loss = nn.MSELoss(reduction="sum")
    return {
        "vhp": lambda: hesse.vhp(scalar, X, V)[1],
        "hvp": lambda: hesse.hvp(scalar, X, V)[1],
        "hessian": lambda: functional.hessian(scalar, X) @ V,
        "Hessian": lambda: hesse.Hessian(scalar, X) @ V,
        "Hessian, compiled": lambda: hesse.Hessian(scalar, X, engine="compiled") @ V,
        "LossHessian": lambda: hesse.LossHessian(Net(square), loss, data) @ V,
        "LossHessian, compiled": lambda: hesse.LossHessian(Net(square), loss, data, engine="compiled") @ V,
    }


@places
@pytest.mark.parametrize("hook", OPAQUE)
@pytest.mark.one_in(5)
def test_an_opaque_hook_is_refused(hook: Any, place: Any) -> None:
    for name, product in products(place(hook)).items():
        with pytest.raises(hesse.NoDerivativeError, match=r"a hook, of a tensor or of a module's backward"):
            print(name, product())


@places
@pytest.mark.parametrize("hook", FINE)
@pytest.mark.one_in(11)
def test_a_hook_that_autograd_follows_is_part_of_the_function(hook: Any, place: Any) -> None:
    for product in products(place(hook)).values():
        assert_values(product(), PRODUCT)


@places
def test_jacobians_refuse_it_where_they_differentiate_a_backward(place: Any) -> None:
    square = place(Tensor.detach)
    for product in (
        lambda: functional.jvp(square, X, V),
        lambda: hesse.Jacobian(square, X) @ V,
        lambda: hesse.GaussNewton(Net(square), nn.MSELoss(), (X[None], X[None])) @ V,
    ):
        with pytest.raises(hesse.NoDerivativeError, match="a hook"):
            product()
    assert_values(functional.vjp(square, X, V)[1], 2 * X * V)
    assert_values(hesse.Jacobian(square, X).T @ V, 2 * X * V)


@pytest.mark.parametrize("place", [of_a_tensor, of_a_node, before_a_node])
def test_a_hook_that_makes_zeros_freezes_what_it_is_on(place: Any) -> None:
    square = place(torch.zeros_like)
    assert_values(hesse.vhp(lambda x: (square(x) ** 2 + x**3).sum(), X, V)[1], 6 * X * V)


def test_it_is_refused_where_the_gradient_vanishes_at_the_point() -> None:
    square = of_a_tensor(Tensor.detach)
    with pytest.raises(hesse.NoDerivativeError, match="a hook"):
        hesse.vhp(lambda x: ((square(x) - X**2) ** 2).sum(), X, V)


def test_the_line_is_that_of_what_the_hook_is_on() -> None:
    square = of_a_tensor(Tensor.detach)
    line = inspect.getsourcelines(square)[1] + 1
    with pytest.raises(hesse.NoDerivativeError) as caught:
        hesse.Hessian(lambda x: (square(x) ** 2).sum(), X)
    assert caught.value.place == f"{__file__}:{line}"


def test_hooks_that_were_registered_elsewhere_say_nothing() -> None:
    other = X.clone().requires_grad_()
    (other**2).register_hook(Tensor.detach)
    assert_values(hesse.vhp(lambda x: (x**4).sum(), X, V)[1], PRODUCT)
    seen: list[Tensor] = []

    def recorded(x: Tensor) -> Tensor:
        y = x**2
        y.register_hook(lambda gradient: seen.append(gradient.detach()))
        return (y**2).sum()

    assert_values(hesse.Hessian(recorded, X) @ V, PRODUCT)
    # Hooks may be called once more, with other numbers, to see whether they are followed.
    assert any(torch.allclose(gradient, 2 * X**2) for gradient in seen)


def in_part(gradient: Tensor) -> Tensor:
    """Twice the gradient, of which autograd follows one."""
    return gradient + gradient.detach()


@pytest.mark.parametrize("place", [of_a_tensor, before_a_node, of_the_input])
def test_a_hook_that_is_followed_in_part_is_refused(place: Any) -> None:
    with pytest.raises(hesse.NoDerivativeError, match="a hook"):
        hesse.Hessian(lambda x: (place(in_part)(x) ** 2).sum(), X)


def reversed_clipped(gradient: Tensor) -> Tensor:
    return -gradient.clamp(-1, 1)


@pytest.mark.parametrize("hook", [reversed_clipped, lambda g: g + 3, lambda g: g / (1 + g.norm()), lambda g: g.relu()])
def test_a_hook_that_is_not_linear_is_what_pytorch_makes_of_it(hook: Any) -> None:
    def scalar(x: Tensor) -> Tensor:
        return (of_a_tensor(hook)(x) ** 2).sum()

    assert_values(hesse.vhp(scalar, X, V)[1], torch.autograd.functional.vhp(scalar, X, V)[1])
