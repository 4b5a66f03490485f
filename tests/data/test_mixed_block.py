"""The mixed block between parameters and data, against dense second derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import hesse
from tests.data import references
from tests.data.models import CLASSES, REAL, X, inputs, loader, mlp


def gradient_by(model: torch.nn.Module, x: Tensor, y: Tensor, by: int) -> Tensor:
    """∂(∇θ L)/∂x or ∂y, dense."""
    at, point = references.flat_function(model, references.trainable(model), lambda call: call)

    def gradient(z: Tensor) -> Tensor:
        flat = point.clone().requires_grad_()
        pair = (z, y) if by == 0 else (x, z)
        (grad,) = torch.autograd.grad(F.mse_loss(at(flat)(pair[0]), pair[1]), flat, create_graph=True)
        return grad

    return torch.autograd.functional.jacobian(gradient, x if by == 0 else y).flatten(1)


@pytest.mark.parametrize("memory", [None, "5KB"], ids=["kept", "little memory"])
@pytest.mark.parametrize("part", [0, 1])
def test_it_is_the_derivative_of_the_gradient_by_the_data(part: int, memory: str | None) -> None:
    model = mlp()
    M = hesse.LossHessian(model, F.mse_loss, loader(X, REAL), memory=memory).data_block(part)
    expected = gradient_by(model, X, REAL, part)
    assert M.shape == expected.shape
    torch.testing.assert_close(M.to_dense(), expected)
    torch.testing.assert_close(M.T @ torch.eye(27, dtype=torch.float64), expected.T)
    V = inputs(M.shape[1], 2)
    torch.testing.assert_close(M @ V, expected @ V)


def test_vectors_over_the_data_are_lists_of_batches() -> None:
    model = mlp()
    data = [{"x": X[:6], "y": REAL[:6]}, {"x": X[6:], "y": REAL[6:]}]
    H = hesse.LossHessian(model, lambda model, batch: F.mse_loss(model(batch["x"]), batch["y"]), data)
    M = H.data_block("x")
    expected = gradient_by(model, X, REAL, 0)
    product = M @ [torch.ones_like(X[:6]), torch.ones_like(X[6:])]
    torch.testing.assert_close(H.flatten(product), expected.sum(1))
    back = M.T @ H.unflatten(inputs(27))
    assert [tensor.shape for tensor in back] == [(6, 4), (4, 4)]
    torch.testing.assert_close(torch.cat(back).flatten(), expected.T @ inputs(27))


def test_influence_by_a_solve_agrees_with_training_again() -> None:
    """The minimum of a ridge regression moves with its targets by −H⁻¹·M, and is known in closed form."""
    model = torch.nn.Linear(4, 3, bias=False).double()

    def loss(model: torch.nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return F.mse_loss(model(batch[0]), batch[1], reduction="sum") + model.weight.square().sum()

    def minimum(y: Tensor) -> Tensor:
        return torch.linalg.solve(X.T @ X + torch.eye(4, dtype=torch.float64), X.T @ y).T

    model.weight.data = minimum(REAL)
    H = hesse.LossHessian(model, loss, (X, REAL, torch.zeros(())))
    moved = -torch.linalg.solve(H.to_dense(), H.data_block(1) @ (step := inputs(30, seed=7)))
    expected = minimum(REAL + step.reshape(10, 3)) - minimum(REAL)
    torch.testing.assert_close(moved.reshape(3, 4), expected)


def test_what_is_no_part_is_refused() -> None:
    H = hesse.LossHessian(mlp(), F.cross_entropy, loader(X, CLASSES))
    with pytest.raises(KeyError, match="has no part 2"):
        H.data_block(2)
    with pytest.raises(TypeError, match=r"Part 1 of batch 0 .* should be a floating-point tensor but is torch\.int64"):
        H.data_block(1)


def test_it_is_stale_with_its_hessian() -> None:
    model = mlp()
    M = hesse.LossHessian(model, F.mse_loss, loader(X, REAL)).data_block()
    with torch.no_grad():
        model[0].weight.add_(1)
    with pytest.raises(hesse.StalePointError, match=r"0\.weight"):
        M @ torch.ones(40, dtype=torch.float64)
