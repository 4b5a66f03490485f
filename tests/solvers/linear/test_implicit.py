"""Derivatives of solutions, by b and by what the operator closes over, against closed forms and dense autograd."""

from __future__ import annotations

import pytest
import torch

import hesse


def spd(n, seed=0):
    draw = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    # Symmetric to the last bit.
    return draw + draw.mT + 3 * n * torch.eye(n, dtype=torch.float64)


@pytest.mark.parametrize("method", ["cg", "minres"])
@pytest.mark.parametrize("columns", [None, 3])
def test_the_derivatives_by_matrix_and_right_hand_side_are_those_of_a_dense_solve(method, columns):
    matrix = spd(12).requires_grad_()
    shape = (12,) if columns is None else (12, columns)
    b = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = hesse.solve(matrix, b, method=method, tol=1e-13, create_graph=True)
    ours = torch.autograd.grad((weights * found.solution.sin()).sum(), (matrix, b))
    theirs = torch.autograd.grad((weights * torch.linalg.solve(matrix, b).sin()).sum(), (matrix, b))
    for mine, wanted in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, wanted, atol=1e-11)
    assert found.residual_norms.requires_grad is False


def test_bilevel_ridge_regression_has_the_closed_forms_hypergradient():
    draw = torch.Generator().manual_seed(0)
    X, y = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((40, 6), (40,)))
    X_held, y_held = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((20, 6), (20,)))
    penalties = torch.linspace(-1, 1, 6, dtype=torch.float64).requires_grad_()

    def held_out(w):
        return ((X_held @ w - y_held) ** 2).mean()

    def train(w):
        return ((X @ w - y) ** 2).sum() / 2 + (penalties.exp() * w**2).sum() / 2

    # One Newton step reaches the minimum of a quadratic; there, the implicit function theorem.
    start = torch.zeros(6, dtype=torch.float64)
    H = hesse.Hessian(train, start, create_graph=True)
    step = hesse.solve(H, -H.gradient, tol=1e-13, create_graph=True)
    ours = torch.autograd.grad(held_out(start + step.solution), penalties)[0]

    closed = torch.linalg.solve(X.mT @ X + torch.diag(penalties.exp()), X.mT @ y)
    wanted = torch.autograd.grad(held_out(closed), penalties)[0]
    assert torch.allclose(ours, wanted, rtol=1e-9)


def test_a_minimizer_found_by_any_means_is_differentiated_implicitly():
    # w* = argmin f(w, t): dw*/dt = −H⁻¹ ∂²f/∂w∂t, as one Newton step from w* whose value is zero.
    t = torch.tensor([0.3, 1.2, 2.0], dtype=torch.float64, requires_grad=True)

    def f(w):
        return (w**4).sum() / 4 + (w**2).sum() / 2 - (w * t.sin()).sum()

    w = torch.zeros(3, dtype=torch.float64)
    for _ in range(50):
        w = w - (w**3 + w - t.detach().sin()) / (3 * w**2 + 1)
    H = hesse.Hessian(f, w, create_graph=True)
    minimizer = w + hesse.solve(H, -H.gradient, atol=1e-12, create_graph=True).solution
    (ours,) = torch.autograd.grad(minimizer.sum(), t)
    assert torch.allclose(ours, t.cos() / (3 * w**2 + 1))


def test_structured_right_hand_sides_carry_derivatives():
    c = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    point = {"a": torch.ones(2, dtype=torch.float64), "b": torch.ones((), dtype=torch.float64)}
    H = hesse.Hessian(lambda p: c * (p["a"] ** 2).sum() + c**2 * p["b"] ** 2, point, create_graph=True)
    b = {key: torch.ones_like(value, requires_grad=True) for key, value in point.items()}
    found = hesse.solve(H, b, tol=1e-13, create_graph=True)
    # x = 1/(2c) and 1/(2c²).
    total = found.solution["a"].sum() + found.solution["b"]
    by_c, by_a = torch.autograd.grad(total, (c, b["a"]))
    assert torch.isclose(by_c, -2 / (2 * c.detach() ** 2) - 1 / c.detach() ** 3)
    assert torch.allclose(by_a, torch.full((2,), 0.25, dtype=torch.float64))


def test_without_create_graph_nothing_is_connected():
    matrix = spd(3).requires_grad_()
    b = torch.ones(3, dtype=torch.float64, requires_grad=True)
    assert not hesse.solve(matrix, b).solution.requires_grad
    assert not hesse.solve(matrix.detach(), b.detach(), create_graph=True).solution.requires_grad


def test_it_works_under_no_grad():
    b = torch.ones(3, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        found = hesse.solve(2 * torch.eye(3, dtype=torch.float64), b, create_graph=True)
    (by_b,) = torch.autograd.grad(found.solution.sum(), b)
    assert torch.allclose(by_b, torch.full((3,), 0.5, dtype=torch.float64))


def test_the_product_that_connects_is_counted():
    A, b = spd(5), torch.ones(5, dtype=torch.float64, requires_grad=True)
    assert hesse.solve(A, b, create_graph=True).num_products == hesse.solve(A, b).num_products + 1


@pytest.mark.parametrize("wrt", ["matrix", "b"])
def test_a_second_derivative_is_refused(wrt):
    matrix = spd(3).requires_grad_()
    b = torch.ones(3, dtype=torch.float64, requires_grad=True)
    target = {"matrix": matrix, "b": b}[wrt]
    found = hesse.solve(matrix, b, tol=1e-12, create_graph=True)
    (first,) = torch.autograd.grad(found.solution.sum(), matrix, create_graph=True)
    with pytest.raises(RuntimeError, match="has first derivatives only, and a second one was asked for"):
        torch.autograd.grad(first.sum(), target)


def test_an_operator_made_without_create_graph_is_refused():
    H = hesse.Hessian(lambda x: (x**2).sum(), torch.ones(2))
    for operator in (H, H.shift(1.0), 2 * H):
        with pytest.raises(ValueError, match=r"carry no derivatives\. Those of a Hessian made with create_graph"):
            hesse.solve(operator, torch.ones(2), create_graph=True)


def test_a_sum_over_data_whose_products_carry_no_derivatives_is_refused():
    model, data = torch.nn.Linear(3, 1), (torch.randn(5, 3), torch.randn(5, 1))
    H = hesse.LossHessian(model, torch.nn.MSELoss(), data)
    with pytest.raises(ValueError, match="products of this LossHessian carry no derivatives"):
        hesse.solve(H, torch.ones(4), create_graph=True)
