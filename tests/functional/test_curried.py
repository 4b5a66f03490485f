"""Section 4: the curried ``hesse.func.hvp(f)`` in torch.func's style."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.utils import vector_to_parameters

import hesse

from .references import DOUBLE, assert_values


def coupled(a: Tensor, b: Tensor) -> Tensor:
    return (a**2 * b).sum()


def test_the_first_argument_is_the_one_to_differentiate_by() -> None:
    a, b, v = (torch.rand(3, dtype=DOUBLE) for _ in range(3))
    assert_values(hesse.func.hvp(coupled)(a, b, v), 2 * b * v)


def test_argnums_chooses_another_or_several() -> None:
    a, b, v, w = (torch.rand(3, dtype=DOUBLE) for _ in range(4))
    assert_values(hesse.func.hvp(coupled, argnums=1)(a, b, v), torch.zeros_like(v))
    actual = hesse.func.hvp(coupled, argnums=(0, 1))(a, b, (v, w))
    assert_values(actual, (2 * b * v + 2 * a * w, 2 * a * v))


def test_has_aux_gives_the_pair_of_product_and_auxiliary_output() -> None:
    x, v = torch.rand(3), torch.rand(3)
    product, aux = hesse.func.hvp(lambda x: ((x**3).sum(), {"mean": x.mean()}), has_aux=True)(x, v)
    assert_values(product, 6 * x * v)
    assert_values(aux["mean"], x.mean())


def test_the_curried_form_composes_with_the_transforms_of_torch_func() -> None:
    x, v = torch.rand(3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)
    product = hesse.func.hvp(lambda x: (x**4).sum())
    assert_values(vmap(product, in_dims=(None, 0))(x, torch.eye(3, dtype=DOUBLE)), torch.diag(12 * x**2))
    assert_values(grad(lambda x: product(x, v).sum())(x), 24 * x * v)


def test_the_curried_form_is_differentiable_by_what_requires_gradients() -> None:
    x, v = torch.rand(3, dtype=DOUBLE, requires_grad=True), torch.rand(3, dtype=DOUBLE, requires_grad=True)
    gradients = torch.autograd.grad(hesse.func.hvp(lambda x: (x**4).sum())(x, v).sum(), (x, v))
    assert_values(gradients, (24 * x * v, 12 * x**2))


def test_a_missing_vector_is_refused_in_one_sentence() -> None:
    with pytest.raises(TypeError, match="takes the arguments of the original function followed by the vector"):
        hesse.func.hvp(coupled)(torch.rand(3))


@pytest.mark.private
def test_a_tensor_that_would_get_the_data_of_an_input_is_left_alone() -> None:
    net = torch.nn.Linear(2, 1)
    before = [entry.clone() for entry in net.parameters()]

    def loss(x: Tensor) -> Tensor:
        vector_to_parameters(x, net.parameters())
        return net(torch.ones(2)).square().sum()

    x = torch.ones(3)
    for product in (hesse.func.hvp(loss), hesse.func.vhp(loss)):
        with pytest.raises(RuntimeError, match=r"\.data of another tensor.*functional_call") as error:
            product(x, x)
        assert "\n" not in str(error.value)
    # PyTorch itself crashes at the next call where a parameter has become part of a transform that has ended.
    net(torch.ones(2)).sum().backward()
    assert all(map(torch.equal, net.parameters(), before))
