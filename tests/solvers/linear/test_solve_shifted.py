"""``solve_shifted``: every shift's dense answer, at the price of the smallest."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch

import hesse

from ..known_matrices import with_eigenvalues

SHIFTS = [10.0, 0.1, 1.0, 0.1, 100.0]
VALUES = np.concatenate([np.zeros(20), 10.0 ** np.linspace(-2, 2, 180)])


def dense(A, b, shift):
    return torch.linalg.solve(A + shift * torch.eye(len(A), dtype=A.dtype), b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_shift_has_its_dense_answer(dtype):
    A = with_eigenvalues(VALUES, dtype)
    b = torch.ones(200, dtype=dtype)
    tol = 1e-9 if dtype == torch.float64 else 1e-4
    found = hesse.solve_shifted(A, b, SHIFTS, tol=tol)
    assert found.converged
    assert found.shifts == tuple(SHIFTS)
    for shift, x, norm in zip(SHIFTS, found.solutions, found.residual_norms, strict=True):
        truth = dense(A.double(), b.double(), shift)
        assert float((x - truth).norm()) <= 1.1 * tol / shift * float(b.norm())
        residual = b.double() - A.double() @ x.double() - shift * x.double()
        assert np.isclose(float(norm), float(residual.norm()), rtol=0.2, atol=1e-6 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
@pytest.mark.one_in(3)
def test_a_tolerance_of_zero_ends_with_what_rounding_allows(dtype, size):
    A = with_eigenvalues(np.linspace(1, 5, 40), dtype)
    b = size * torch.linspace(1, 2, 40, dtype=dtype)
    with pytest.warns(hesse.ConvergenceWarning, match="rounding allows no smaller one"):
        found = hesse.solve_shifted(A, b, [0.1, 1.0], tol=0.0)
    assert set(found.endings) == {"precision"}
    for shift, x in zip(found.shifts, found.solutions, strict=True):
        truth = dense(A.double(), b.double(), shift)
        assert float((x - truth).norm()) <= 50 * torch.finfo(dtype).eps * float(truth.norm())


def test_many_shifts_cost_what_the_smallest_does_and_a_true_residual_each():
    A, b = with_eigenvalues(VALUES), torch.ones(200, dtype=torch.float64)
    found = hesse.solve_shifted(A, b, SHIFTS, tol=1e-8)
    alone = hesse.solve(hesse.as_operator(A).shift(0.1), b, method="cg", tol=1e-8)
    assert found.num_products <= int(alone.num_iterations) + len(SHIFTS) + 1
    assert int(found.num_iterations.max()) <= int(alone.num_iterations) + 1
    # Larger shifts are done sooner.
    assert found.num_iterations[4] < found.num_iterations[0] < found.num_iterations[1]


def test_with_a_preconditioner_each_starts_from_the_one_before():
    A, b = with_eigenvalues(VALUES), torch.ones(200, dtype=torch.float64)
    shifts = [1.0, 0.99, 0.98]
    found = hesse.solve_shifted(
        A, b, shifts, tol=1e-8, preconditioner=lambda shift: hesse.nystrom(A, 40, shift=shift, rng=0)
    )
    assert found.converged
    for shift, x in zip(shifts, found.solutions, strict=True):
        assert float((x - dense(A, b, shift)).norm()) <= 1.1e-8 / shift * float(b.norm())
    assert int(found.num_iterations[1]) < int(found.num_iterations[0])


def test_a_shift_too_small_for_an_indefinite_operator_is_said_and_the_others_are_solved():
    A = with_eigenvalues(np.linspace(-1, 5, 60))
    b = torch.ones(60, dtype=torch.float64)
    with pytest.warns(hesse.ConvergenceWarning, match="1 of 3 residuals are too large") as caught:
        found = hesse.solve_shifted(A, b, [2.0, 0.5, 4.0], tol=1e-8)
    assert len(caught) == 1
    assert found.endings == ("converged", "negative_curvature", "converged")
    assert not found.converged
    d = found.negative_curvature
    assert np.isclose(found.curvature, float(d @ A @ d))
    assert found.curvature < -0.49
    for place, shift in ((0, 2.0), (2, 4.0)):
        assert torch.allclose(found.solutions[place], dense(A, b, shift), atol=1e-6)


def test_the_budget_is_kept_and_a_callback_stops_it():
    A, b = with_eigenvalues(VALUES), torch.ones(200, dtype=torch.float64)
    for budget in (10, 11, 12, 25):
        with pytest.warns(hesse.ConvergenceWarning, match="products ran out"):
            found = hesse.solve_shifted(A, b, SHIFTS, tol=1e-12, max_products=budget)
        assert found.num_products <= budget
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = hesse.solve_shifted(A, b, SHIFTS, tol=1e-12, callback=lambda p: p.num_products >= 9)
    assert not found.converged
    assert found.num_products == 9 + len(SHIFTS)


def test_structured_vectors_and_zero_are_welcome():
    H = hesse.Hessian(lambda p: (p["a"] ** 4).sum() + p["b"] ** 2, {"a": torch.ones(3), "b": torch.tensor(1.0)})
    b = {"a": torch.full((3,), 14.0), "b": torch.tensor(4.0)}
    found = hesse.solve_shifted(H, b, [2.0])
    assert torch.allclose(found.solutions[0]["a"], torch.ones(3))
    assert torch.allclose(found.solutions[0]["b"], torch.tensor(1.0))
    zero = hesse.solve_shifted(torch.eye(3), torch.zeros(3), [1.0, 2.0])
    assert zero.converged
    assert zero.num_products == 0


@pytest.mark.parametrize(
    ("shifts", "b", "words", "message"),
    [
        ([], torch.ones(3), {}, "shifts given to solve_shifted should be finite numbers, at least one, but are []."),
        ([1.0], torch.ones(3, 2), {}, "solve_shifted takes one right-hand side but b has 2 columns."),
        ([1.0], torch.ones(3), {"tol": -1.0}, "tol given to solve_shifted should be at least 0 but is -1.0."),
        (
            [1.0, 2.0],
            torch.ones(3),
            {"max_products": 3},
            "max_products given to solve_shifted should be at least 4, two for each shift, but is 3.",
        ),
    ],
)
def test_what_makes_no_sense_is_one_sentence(shifts, b, words, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        hesse.solve_shifted(torch.eye(3), b, shifts, **words)


def test_a_right_hand_side_of_numpy_gives_solutions_of_numpy() -> None:
    diagonal, b = np.array([2.0, 3.0, 4.0]), np.array([1.0, -2.0, 0.5])
    found = hesse.solve_shifted(hesse.as_operator(torch.diag(torch.from_numpy(diagonal))), b, [0.0, 1.0], tol=1e-12)
    for shift, solution in zip([0.0, 1.0], found.solutions, strict=True):
        np.testing.assert_allclose(solution, b / (diagonal + shift))


@pytest.mark.parametrize("size", [2, 40])
@pytest.mark.parametrize(("values", "shift"), [("ones", -1.0), ("counted", 0.0), ("counted", -1.0)])
def test_no_shift_at_an_eigenvalue_converges_or_grows(size, values, shift):
    spectrum = np.ones(size) if values == "ones" else np.arange(size)
    A, b = with_eigenvalues(spectrum, torch.float64), torch.linspace(1, 2, size, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hesse.ConvergenceWarning)
        found = hesse.solve_shifted(A, b, [shift, 5.0])
    assert not found.converged
    assert found.endings[0] != "converged"
    damped = found.solutions[1]
    if shift == 0:
        assert float(found.residual_norms[0]) <= 1.001 * float(b.norm())
    torch.testing.assert_close(damped, dense(A, b, 5.0), rtol=1e-5, atol=1e-6)
