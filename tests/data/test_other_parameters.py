"""``at(parameters=)``: the operator at other values of the parameters, while the model stays as it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hesse

X = torch.linspace(-1.5, 2.0, 44, dtype=torch.float64).reshape(11, 4).sin()
Y = X[:, :2].cos()
BATCHES = [(X[:7], Y[:7]), (X[7:], Y[7:])]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def error(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square().mean()


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("engine", ["tape", "compiled"])
@pytest.mark.parametrize("operator", [hesse.LossHessian, hesse.GaussNewton])
@pytest.mark.one_in(3)
def test_an_operator_at_other_parameters_is_that_of_a_model_with_these(operator: type, engine: str) -> None:
    model, other = network(), network()
    before = {name: entry.clone() for name, entry in model.state_dict().items()}
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.25
    v = torch.linspace(-1, 1, sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    H = operator(model, error, BATCHES, engine=engine)
    values = {name: entry.detach().clone() for name, entry in other.named_parameters()}
    there, expected = H.at(parameters=values), operator(other, error, BATCHES)
    for entry in values.values():
        entry.zero_()
    torch.testing.assert_close(there @ v, expected @ v, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(there.value, expected.value, rtol=1e-12, atol=0)
    torch.testing.assert_close(there.at() @ v, H @ v, rtol=1e-11, atol=1e-13)
    assert all(torch.equal(before[name], entry) for name, entry in model.state_dict().items())


def test_the_loss_at_other_parameters_takes_them_by_name() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False)).double()
    H = hesse.LossHessian(model, error, [(X, X.cos())])
    first, second = torch.randn(2, 4, 4, dtype=torch.float64).requires_grad_()
    expected = error((X @ first.T).tanh() @ second.T, X.cos())
    for values in ({"0.weight": first, "2.weight": second}, {"2.weight": second, "0.weight": first}):
        loss = H.loss_at(values)
        torch.testing.assert_close(loss, expected)
        for ours, theirs in zip(
            *[torch.autograd.grad(y, (first, second), retain_graph=True) for y in (loss, expected)], strict=True
        ):
            torch.testing.assert_close(ours, theirs)


def test_what_does_not_fit_is_refused() -> None:
    H = hesse.LossHessian(network(), error, BATCHES)
    with pytest.raises(ValueError, match=r"parameters given to at\(\) should hold all parameters .* but lack '0.bias'"):
        H.at(parameters={"0.weight": torch.zeros(5, 4)})
    with pytest.raises(ValueError, match=r"parameters given to loss_at\(\) should hold all parameters of the Loss"):
        H.loss_at(torch.zeros(5, 4))
    with pytest.raises(ValueError, match=r"parameters given to at\(\) do not fit those of the LossHessian: Entry"):
        H.at(parameters={name: torch.zeros(1) for name, _ in network().named_parameters()})
    x = torch.ones(3, dtype=torch.float64)
    with pytest.raises(
        TypeError, match=r"at\(parameters=\) is for a GaussNewton over data, but this one is of a function"
    ):
        hesse.GaussNewton(torch.sin, x).at(parameters=x)


def test_the_loss_draws_as_the_operator_where_its_batch_is_cut_up() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 3)).double()
    batch = torch.randn(64, 4, dtype=torch.float64), torch.arange(64) % 3
    H = hesse.LossHessian(model, nn.functional.cross_entropy, batch, memory="6KB")
    assert H.explain().rows is not None
    torch.testing.assert_close(H.loss_at(dict(model.named_parameters())).detach(), H.value)
