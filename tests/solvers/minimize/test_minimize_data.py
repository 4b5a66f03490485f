"""Minima of losses over data: the model stays as it is, and closed forms and torch alone say where the minimum is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import hesse

X = torch.linspace(-1.5, 2.0, 44, dtype=torch.float64).reshape(11, 4).sin()
Y = (X @ torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.0], [2.0, 1.0]], dtype=torch.float64)).cos()
BATCHES = [(X[:7], Y[:7]), (X[7:], Y[7:])]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def ridge(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square().mean()


@pytest.mark.parametrize("operator", [hesse.LossHessian, hesse.GaussNewton])
def test_a_linear_model_ends_at_the_least_squares_solution(operator: type) -> None:
    model = nn.Linear(4, 2).double()
    found = hesse.minimize(operator(model, ridge, BATCHES, engine="tape"), tol=1e-10)
    expected = torch.linalg.lstsq(torch.cat([X, torch.ones(11, 1, dtype=torch.float64)], 1), Y, driver="gelsd").solution
    solution = torch.cat([found.x["weight"].mT, found.x["bias"][None]])
    assert found.converged
    error = torch.cat([X, torch.ones(11, 1, dtype=torch.float64)], 1) @ (solution - expected)
    assert error.abs().max() < 1e-7


def test_the_gradient_there_is_small_and_the_model_is_as_it_was() -> None:
    model = network()
    before = {name: entry.clone() for name, entry in model.state_dict().items()}
    H = hesse.LossHessian(model, ridge, BATCHES, engine="tape")
    found = hesse.minimize(H, tol=1e-2)
    assert found.converged
    x = {name: entry.clone().requires_grad_() for name, entry in found.x.items()}
    value = ridge(functional_call(model, x, (X,)), Y)
    gradient = torch.cat([entry.flatten() for entry in torch.autograd.grad(value, list(x.values()))])
    assert found.fun == pytest.approx(value.item(), rel=1e-10)
    assert gradient.norm() == pytest.approx(found.grad_norm, rel=1e-6)
    assert all(torch.equal(before[name], entry) for name, entry in model.state_dict().items())
    assert (H @ torch.ones(H.shape[0], dtype=torch.float64)).isfinite().all()


def test_it_begins_where_it_is_told() -> None:
    model = network()
    H = hesse.LossHessian(model, ridge, BATCHES, engine="tape")
    start = {name: entry + 0.1 for name, entry in model.named_parameters()}
    found = hesse.minimize(H, start, atol=1e9)
    assert found.nit == 0
    assert all(torch.equal(found.x[name], entry.detach()) for name, entry in start.items())


def test_what_does_not_fit_is_refused() -> None:
    H = hesse.LossHessian(network(), ridge, BATCHES, engine="tape")
    with pytest.raises(ValueError, match="method='levenberg-marquardt' given to minimize is for functions"):
        hesse.minimize(H, method="levenberg-marquardt")
    x = torch.ones(3, dtype=torch.float64)
    with pytest.raises(TypeError, match="should be a function of x0, or an operator over data, but is a Hessian"):
        hesse.minimize(hesse.Hessian(lambda x: x.sin().sum(), x), x)


@pytest.mark.exhaustive
def test_a_search_goes_on_from_its_checkpoint_with_the_same_digits(tmp_path: Path) -> None:
    H = hesse.LossHessian(network(), ridge, BATCHES, engine="tape")
    kept = hesse.Checkpoint(tmp_path / "search", seconds=0)
    undisturbed = hesse.minimize(H, tol=1e-2)
    stopped = hesse.minimize(H, tol=1e-2, checkpoint=kept, callback=lambda progress: progress.num_products == 9)
    assert not stopped.converged
    again = hesse.minimize(H, tol=1e-2, checkpoint=kept, callback=lambda progress: False)
    assert again.num_products == undisturbed.num_products > 9
    assert all(torch.equal(again.x[name], entry) for name, entry in undisturbed.x.items())
