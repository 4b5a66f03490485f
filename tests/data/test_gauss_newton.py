"""GaussNewton against JᵀLJ, dense in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesse
from tests.data import references
from tests.data.models import BITS, CLASSES, REAL, Tied, X, generator, inputs, loader, mlp, seeded

LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor]] = {
    "cross_entropy": (F.cross_entropy, CLASSES),
    "cross_entropy_sum": (nn.CrossEntropyLoss(reduction="sum"), CLASSES),
    "cross_entropy_ignoring": (functools.partial(F.cross_entropy, ignore_index=1), CLASSES),
    "mse": (nn.MSELoss(), REAL),
    "mse_sum": (nn.MSELoss(reduction="sum"), REAL),
    "bce": (nn.BCEWithLogitsLoss(), BITS),
    "own": (lambda f, y: (f - y).pow(4).sum(1).mean(), REAL),
    "with_curvature_of_either_sign": (lambda f, y: (f.sin() * y).sum(), REAL),
}


def assert_equal(G: hesse.Operator, expected: Tensor) -> None:
    torch.testing.assert_close(G.to_dense(), expected, rtol=1e-11, atol=1e-13)


def jtlj(model: nn.Module, predict: Callable[..., Tensor], loss: Callable[[Tensor], Tensor]) -> Tensor:
    """JᵀLJ of a loss of what is predicted from the model's call."""
    J = references.jacobian(model, predict).flatten(end_dim=-2)
    prediction = predict(model).detach()
    L = torch.autograd.functional.hessian(loss, prediction).reshape(len(J), len(J))
    return J.T @ L @ J


@pytest.mark.parametrize("memory", [None, "2KB"], ids=["kept", "little memory"])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.one_in(3)
def test_it_is_jt_l_j_of_one_large_batch(name: str, memory: str | None) -> None:
    loss, target = LOSSES[name]
    model = mlp()
    G = hesse.GaussNewton(model, loss, loader(X, target), memory=memory)
    assert_equal(G, jtlj(model, lambda call: call(X), lambda f: loss(f, target)))
    value = loss(model(X), target)
    torch.testing.assert_close(G.value, value.detach())
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(model.parameters()))])
    torch.testing.assert_close(G.flatten(G.gradient), gradient)
    assert G.symmetric
    assert G.positive_semidefinite == (name not in ("own", "with_curvature_of_either_sign"))
    assert (G.explain().kept == G.explain().microbatches) == (memory is None)


def test_a_dictionary_needs_output_which_gives_prediction_and_target() -> None:
    model = seeded(Tied)
    batches = [
        {key: torch.randint(5, (rows, 4), generator=generator(rows + seed)) for seed, key in enumerate(("x", "y"))}
        for rows in (3, 2)
    ]
    batches[1]["y"][0, 2:] = -100

    def output(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return model(batch["x"]).flatten(0, 1), batch["y"].flatten()

    x, y = [torch.cat([batch[key] for batch in batches]) for key in ("x", "y")]
    expected = jtlj(model, lambda call: call(x).flatten(0, 1), lambda f: F.cross_entropy(f, y.flatten()))
    assert_equal(hesse.GaussNewton(model, F.cross_entropy, batches, output=output), expected)
    with pytest.raises(TypeError, match=r"needs the model's prediction.*Give output="):
        hesse.GaussNewton(model, F.cross_entropy, batches)
    with pytest.raises(TypeError, match=r"output= given to GaussNewton should return a pair \(prediction, target\)"):
        hesse.GaussNewton(model, F.cross_entropy, batches, output=lambda model, batch: model(batch["x"]))


def test_a_prediction_may_be_a_structure() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.scale = nn.Linear(4, 3), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"mean": self.mean(x).tanh(), "class": torch.zeros(len(x), dtype=torch.long), "scale": self.scale(x)}

    model = seeded(TwoHeads)

    def loss(prediction: dict[str, Tensor], y: Tensor) -> Tensor:
        assert not prediction["class"].any()
        return ((prediction["mean"] - y).square().sum(1) * prediction["scale"].exp().squeeze(1)).mean()

    def packed(f: Tensor) -> Tensor:
        return loss({"mean": f[:, :3], "class": torch.zeros(10), "scale": f[:, 3:]}, REAL)

    expected = jtlj(model, lambda call: torch.cat([call(X)["mean"], call(X)["scale"]], 1), packed)
    assert_equal(hesse.GaussNewton(model, loss, loader(X, REAL)), expected)


def test_blocks_are_parts_of_the_matrix() -> None:
    model = mlp()
    G = hesse.GaussNewton(model, F.cross_entropy, loader(X, CLASSES))
    dense = jtlj(model, lambda call: call(X), lambda f: F.cross_entropy(f, CLASSES))
    assert_equal(G.block("2.*", "0.weight"), dense[15:, :12])
    assert_equal(G.blocks("layer")["0"], dense[:15, :15])


def test_many_vectors_batched_or_not_give_the_same() -> None:
    model = mlp()
    dense = jtlj(model, lambda call: call(X), lambda f: F.cross_entropy(f, CLASSES))
    V = inputs(27, 70, seed=4)
    for batching in ("loop", "vmap", "auto"):
        G = hesse.GaussNewton(model, F.cross_entropy, loader(X, CLASSES), batching=batching)
        torch.testing.assert_close(G @ V, dense @ V)


def residual(x: Tensor, scale: Tensor) -> Tensor:
    return torch.cat([scale * x.square(), x.sin() - scale])


def test_a_plain_residual_has_jt_j() -> None:
    x, scale = inputs(4), torch.tensor([2.0], dtype=torch.float64)
    G = hesse.GaussNewton(residual, (x, scale))
    J = torch.cat(torch.autograd.functional.jacobian(residual, (x, scale)), dim=1)
    assert_equal(G, J.T @ J)
    torch.testing.assert_close(G.value, 0.5 * residual(x, scale).square().sum())
    torch.testing.assert_close(torch.cat(G.gradient), J.T @ residual(x, scale))
    product = G @ (torch.ones_like(x), torch.zeros_like(scale))
    assert isinstance(product, tuple)
    assert G.positive_semidefinite


def test_a_plain_function_takes_a_loss_of_its_output() -> None:
    x = {"a": inputs(3), "b": inputs(2, seed=1)}

    def func(x: dict[str, Tensor]) -> Tensor:
        return torch.outer(x["a"], x["b"]).exp()

    def loss(output: Tensor) -> Tensor:
        return output.log().pow(3).sum()

    def flat(v: Tensor) -> Tensor:
        return func({"a": v[:3], "b": v[3:]}).reshape(-1)

    point = torch.cat([x["a"], x["b"]])
    J = torch.autograd.functional.jacobian(flat, point)
    L = torch.autograd.functional.hessian(loss, flat(point))
    assert_equal(hesse.GaussNewton(func, x, loss=loss), J.T @ L @ J)
    assert_equal(hesse.GaussNewton(func, inputs=x, loss=loss), J.T @ L @ J)


def test_a_plain_function_is_looked_at_again_by_at() -> None:
    x = inputs(3)
    G = hesse.GaussNewton(torch.sin, x)
    G @ x
    x.add_(1)
    with pytest.raises(hesse.StalePointError, match=r"The input tensor has changed .* Call at\(\)"):
        G @ x
    assert_equal(G.at(), torch.diag(x.cos().square()))


def test_what_makes_no_sense_is_one_sentence() -> None:
    model, x = mlp(), inputs(3)
    with pytest.raises(TypeError, match="needs a loss and data"):
        hesse.GaussNewton(model, F.cross_entropy)
    with pytest.raises(TypeError, match="takes a model, a loss and data, or a function and its inputs"):
        hesse.GaussNewton(torch.sin)
    with pytest.raises(TypeError, match="got loss by position and by name"):
        hesse.GaussNewton(model, F.cross_entropy, (X, CLASSES), loss=F.cross_entropy)
    with pytest.raises(TypeError, match="takes inputs by position here but got 2 values"):
        hesse.GaussNewton(torch.sin, x, x)
    with pytest.raises(TypeError, match=r"should return real floating-point tensors but gave torch\.complex"):
        hesse.GaussNewton(lambda x: x * 1j, x)


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.real, self.imag, self.scale = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.complex(self.real(x), self.imag(x)), self.scale(x)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.decode = nn.Linear(4, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        mean = self.mean(x)
        return self.decode(mean), torch.distributions.Normal(mean, torch.ones_like(mean))


class Auxiliary(nn.Module):
    """A model that keeps a part of the loss, as a mixture of experts does."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.kept = mlp(), torch.zeros((), dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        prediction = self.model(x)
        self.kept = prediction.mean(1).square().mean()
        return prediction


def penalized(model: nn.Module) -> Callable[..., Tensor]:
    return lambda f, y: F.mse_loss(f, y) + sum(p.square().sum() for p in model.parameters())


BESIDE: dict[str, tuple[type[nn.Module] | Callable[[], nn.Module], Callable[[nn.Module], Any], str]] = {
    "a penalty": (mlp, penalized, "2.bias"),
    "an attribute": (lambda: seeded(Auxiliary), lambda model: lambda f, y: F.mse_loss(f, y) + model.kept, "model"),
    "a complex tensor": (
        lambda: seeded(Complex),
        lambda _: lambda f, y: (f[0] * f[1] - y).abs().square().mean(),
        "(real|imag)",
    ),
    "an object": (
        lambda: seeded(Encoder),
        lambda _: lambda f, y: F.mse_loss(f[0], y) + f[1].mean.square().mean(),
        "mean",
    ),
}


@pytest.mark.parametrize("operator", [hesse.GaussNewton, hesse.EmpiricalFisher])
@pytest.mark.parametrize("name", BESIDE)
def test_a_loss_that_depends_on_parameters_beside_the_prediction_is_refused(name: str, operator: Any) -> None:
    make, make_loss, parameter = BESIDE[name]
    model = make()
    loss = make_loss(model)
    with pytest.raises(ValueError, match=f"depends on the parameter '{parameter}.* beside the tensors"):
        operator(model, loss, (X, REAL), reduction="mean", weight=lambda batch: len(batch[0]))
    hesse.LossHessian(model, loss, (X, REAL)).to_dense()
