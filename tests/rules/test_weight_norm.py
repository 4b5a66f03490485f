"""Weight normalization by PyTorch's operator: the derivatives of the formula in plain operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import hesse
from tests.functional.references import DOUBLE, assert_values, dense_hessian

from .judge import assert_right, assert_thrice_differentiable

pytestmark = pytest.mark.usefixtures("uncompiled")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def wavy(y: Tensor) -> Tensor:
    return (y.sin() * torch.arange(1.0, y.numel() + 1, dtype=DOUBLE).reshape(y.shape)).sum()


DIRECTIONS, LENGTHS = draw(3, 4), draw(3, 1, seed=1)
CASES: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "rows": (lambda v, g: wavy(torch._weight_norm(v, g, 0)), (draw(3, 4), draw(3, 1, seed=1))),
    "columns": (lambda v, g: wavy(torch._weight_norm(v, g, 1)), (draw(3, 4), draw(1, 4, seed=1))),
    "kernels": (lambda v, g: wavy(torch._weight_norm(v, g, 0)), (draw(2, 2, 3), draw(2, 1, 1, seed=1))),
    "the last of three": (lambda v, g: wavy(torch._weight_norm(v, g, 2)), (draw(2, 2, 3), draw(1, 1, 3, seed=1))),
    "the middle of three": (lambda v, g: wavy(torch._weight_norm(v, g, 1)), (draw(2, 2, 3), draw(1, 2, 1, seed=1))),
    "directions alone": (lambda v: wavy(torch._weight_norm(v, LENGTHS, 0)), (draw(3, 4),)),
    "lengths alone": (lambda g: wavy(torch._weight_norm(DIRECTIONS, g, 0)), (draw(3, 1, seed=1),)),
    "all at once": (lambda v, g: wavy(torch._weight_norm(v, g, -1)), (draw(3, 4), draw(1, seed=1))),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.one_in(4)
def test_products_agree_with_differences_of_the_gradient(name: str) -> None:
    assert_right(*CASES[name])


@pytest.mark.parametrize("name", ["rows", "the last of three"])
def test_third_derivatives_agree_with_differences_of_products(name: str) -> None:
    assert_thrice_differentiable(*CASES[name])


@pytest.mark.parametrize("name", ["rows", "columns", "kernels"])
def test_pytorchs_double_backward_is_wrong(name: str) -> None:
    func, inputs = CASES[name]
    theirs = torch.autograd.functional.hessian(func, inputs)
    n = inputs[0].numel()
    apart = theirs[0][0].reshape(n, n) - dense_hessian(func, inputs)[:n, :n]
    assert apart.abs().max() > 0.1


@pytest.mark.parametrize("engine", ["tape", "compiled"])
def test_a_normalized_layer_has_the_hessian_of_the_formula(engine: str) -> None:
    torch.manual_seed(0)
    plain = nn.Conv1d(2, 2, 3, dtype=DOUBLE)
    layer = parametrizations.weight_norm(nn.Conv1d(2, 2, 3, dtype=DOUBLE))
    x, y = draw(3, 2, 5), draw(3, 2, 3, seed=1)
    loss = nn.MSELoss()
    H = hesse.LossHessian(layer, loss, (x, y), engine=engine)
    names = [name for name, _ in layer.named_parameters()]

    def formula(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        g, v = given["parametrizations.weight.original0"], given["parametrizations.weight.original1"]
        weight = v * (g / v.flatten(1).norm(dim=1).reshape(-1, 1, 1))
        return loss(torch.func.functional_call(plain, {"weight": weight, "bias": given["bias"]}, (x,)), y)

    expected = dense_hessian(formula, [parameter.detach() for parameter in layer.parameters()])
    assert_values(H.to_dense(), expected, rtol=1e-6, atol=1e-8)
