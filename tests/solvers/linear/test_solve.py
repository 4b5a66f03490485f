"""``solve`` against dense float64 answers on matrices with known trouble: residuals, counts, endings, structure."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

import hesse

from ..known_matrices import with_eigenvalues
from .systems import GRADED, SINGULAR, SYSTEMS, System

EVERY = pytest.mark.parametrize(
    "system",
    [
        pytest.param(system, id=name, marks=[pytest.mark.exhaustive] if name == "two thousand" else [])
        for name, system in SYSTEMS.items()
    ],
)
EVERY_SEMIDEFINITE = pytest.mark.parametrize("system", [each for each in SYSTEMS.values() if each.definite])
EVERY_SINGULAR = pytest.mark.parametrize("system", SINGULAR.values(), ids=SINGULAR.keys())


class Counting(hesse.Operator):
    """A matrix that counts its products."""

    symmetric = True

    def __init__(self, matrix):
        self.matrix, self.widths = matrix, []
        self.shape, self.dtype, self.device = tuple(matrix.shape), matrix.dtype, matrix.device

    def matmat(self, V):
        self.widths.append(V.shape[1])
        return self.matrix @ V


def methods(system):
    return ("cg", "minres") if system.definite else ("minres",)


@EVERY
@pytest.mark.one_in(4)
def test_solutions_are_the_dense_ones_with_true_residuals(system):
    A, B = system.matrix(), system.in_range(3)
    for method in methods(system):
        found = hesse.solve(A, B, method=method, tol=1e-10)
        assert found.converged
        assert found.endings == ("converged",) * 3
        residuals = (B - A @ found.solution).norm(dim=0)
        assert torch.allclose(found.residual_norms, residuals, rtol=1e-6, atol=1e-14)
        assert bool((residuals <= 1e-10 * B.norm(dim=0)).all())
        wanted = system.shortest(B)
        smallest = np.abs(system.eigenvalues[system.eigenvalues != 0]).min()
        assert float((found.solution - wanted).norm(dim=0).max()) <= 1.01e-10 / smallest + 1e-6 * float(wanted.norm())


@EVERY
@pytest.mark.one_in(3)
def test_float32_reaches_what_float32_can(system):
    A, B = system.matrix(torch.float32), system.in_range(2).float()
    found = hesse.solve(A, B, tol=3e-4)
    residuals = (B.double() - A.double() @ found.solution.double()).norm(dim=0)
    assert found.solution.dtype == torch.float32
    assert found.converged
    assert bool((residuals <= 3.1e-4 * B.norm(dim=0)).all())


@EVERY
@pytest.mark.one_in(4)
def test_minres_takes_no_more_steps_than_scipys_for_the_same_residual(system):
    A, b = system.matrix().numpy(), system.in_range(1).numpy()[:, 0]
    steps, residuals = 0, []

    def look(x):
        nonlocal steps
        steps += 1
        residuals.append(np.linalg.norm(b - A @ x))

    scipy.sparse.linalg.minres(A, b, rtol=1e-12, maxiter=2000, callback=look)
    reached = max(min(residuals), 1e-12)
    within = 1 + next(step for step, residual in enumerate(residuals) if residual <= 1.0001 * reached)
    found = hesse.solve(torch.from_numpy(A), torch.from_numpy(b), method="minres", tol=0, atol=1.001 * reached)
    assert int(found.num_iterations) <= 1.05 * within + 2


@EVERY_SEMIDEFINITE
@pytest.mark.one_in(4)
def test_conjugate_gradients_take_no_more_steps_than_scipys(system):
    A, b = system.matrix().numpy(), system.in_range(1).numpy()[:, 0]
    steps = 0

    def count(x):
        nonlocal steps
        steps += 1

    scipy.sparse.linalg.cg(A, b, rtol=1e-9, maxiter=2000, callback=count)
    found = hesse.solve(torch.from_numpy(A), torch.from_numpy(b), method="cg", tol=1e-9)
    assert int(found.num_iterations) <= 1.05 * steps + 2


@EVERY_SINGULAR
@pytest.mark.one_in(3)
def test_a_system_without_solution_gives_the_shortest_least_squares_solution_and_says_so(system):
    A, B = system.matrix(), system.anything(3)
    with pytest.warns(hesse.ConvergenceWarning, match="3 of 3 residuals are too large.*not in its range"):
        found = hesse.solve(A, B, tol=1e-10)
    assert found.endings == ("least_squares",) * 3
    assert not found.converged
    wanted = system.shortest(B)
    # Without reorthogonalization, to about the root of the precision.
    assert float((found.solution - wanted).norm()) <= 1e-5 * float(wanted.norm())
    assert torch.allclose(found.residual_norms, (B - A @ found.solution).norm(dim=0), rtol=1e-6)


def singular(seed):
    """A small singular system, mostly without solution, its shortest least-squares solution, and its residual."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 80))
    nullity = int(rng.integers(1, n))
    values = np.r_[np.zeros(nullity), 10 ** rng.uniform(-1, 0, n - nullity) * rng.choice([-1, 1], n - nullity)]
    turn, _ = np.linalg.qr(rng.standard_normal((n, n)))
    A = (turn * values) @ turn.T
    # What lies outside of the range is small, of the same size, or a hundred times as large.
    outside = 10 ** rng.uniform(-2, 2) * turn[:, :nullity] @ rng.standard_normal(nullity)
    inverse = np.divide(1, values, out=np.zeros(n), where=values != 0)
    b = A @ rng.standard_normal(n) + outside
    x = turn @ (inverse * (turn.T @ b))
    return torch.from_numpy(0.5 * (A + A.T)), torch.from_numpy(b), torch.from_numpy(x)


@pytest.mark.parametrize("seeds", [range(10), pytest.param(range(10, 1000), marks=pytest.mark.exhaustive)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_minres_returns_nothing_worse_than_zero_and_what_it_calls_least_squares_is(dtype, seeds):
    rounding = {torch.float64: 1e-6, torch.float32: 2e-3}[dtype]
    lengths = []
    for seed in seeds:
        A, b, shortest = singular(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", hesse.ConvergenceWarning)
            found = hesse.solve(
                A.to(dtype), b.to(dtype), method="minres", tol=1e-10 if dtype == torch.float64 else 1e-5
            )
        x = found.solution.double()
        residual, least = float((b - A @ x).norm()), float((b - A @ shortest).norm())
        assert residual <= (1 + rounding) * float(b.norm())
        if found.endings == ("least_squares",):
            assert residual <= (1 + rounding) * least
            lengths.append(float(x.norm() / shortest.norm()))
    assert len(lengths) >= 0.9 * len(seeds)
    # In float32 a large part outside of the range hides the solution.
    assert max(lengths) <= 1 + 1e-3 if dtype == torch.float64 else np.quantile(lengths, 0.9) <= 1.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.one_in(2)
def test_a_right_hand_side_of_the_null_space_gives_no_long_solution(dtype):
    """But for as little as rounding, or somewhat more."""
    eps = torch.finfo(dtype).eps
    for seed in range(3):
        rng = np.random.default_rng(seed)
        n = (3, 10, 40)[seed]
        turn, _ = np.linalg.qr(rng.standard_normal((n, n)))
        values = np.r_[0.0, rng.uniform(0.1, 1, n - 1)]
        A = (turn * values) @ turn.T
        A = torch.from_numpy(0.5 * (A + A.T)).to(dtype)
        for part in (eps, eps**0.75):
            b = torch.from_numpy(turn[:, 0] + part * rng.standard_normal(n)).to(dtype)
            with pytest.warns(hesse.ConvergenceWarning, match="not in its range"):
                found = hesse.solve(A, b, method="minres")
            assert found.endings == ("least_squares",)
            assert float(found.solution.norm()) <= 0.05


def near_the_null_space(seed, n, part, dtype):
    """A singular matrix, its null vector plus a part of anything, and the shortest least-squares solution."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.standard_normal((n, n)))
    values = np.r_[0.0, rng.uniform(0.1, 1, n - 1) * rng.choice([-1, 1], n - 1)]
    A = (turn * values) @ turn.T
    b = torch.from_numpy(turn[:, 0] + part * rng.standard_normal(n)).to(dtype)
    shortest = turn[:, 1:] @ ((turn[:, 1:].T @ b.double().numpy()) / values[1:])
    return torch.from_numpy(0.5 * (A + A.T)).to(dtype), b, float(np.linalg.norm(shortest))


@pytest.mark.parametrize("seeds", [range(5), pytest.param(range(5, 500), marks=pytest.mark.exhaustive)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_what_rounding_seems_to_gain_makes_no_solution_long(dtype, seeds):
    """A first step is made before A's norm is known, and the last one may divide rounding by rounding."""
    eps = torch.finfo(dtype).eps
    for seed in seeds:
        for n, part in ((2, eps**0.75), (3, eps**0.75), (2, eps**0.5), (2, 10)):
            A, b, shortest = near_the_null_space(seed, n, part, dtype)
            with pytest.warns(hesse.ConvergenceWarning):
                found = hesse.solve(A, b, method="minres")
            # A change of A by rounding turns its null vector by about eps, and the solution along it.
            assert float(found.solution.norm()) <= 1.5 * shortest + 10 * eps**0.5, (seed, n, part)


@pytest.mark.parametrize("method", ["cg", "minres"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("n", [1, 4, 50])
@pytest.mark.one_in(5)
def test_a_tolerance_of_zero_ends_with_what_rounding_allows(method, dtype, n):
    A = with_eigenvalues(np.linspace(1, 5, n), dtype)
    b = torch.linspace(1, 2, n, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hesse.ConvergenceWarning)
        found = hesse.solve(A, b, method=method, tol=0.0)
    residual = float((b.double() - A.double() @ found.solution.double()).norm())
    assert residual <= 20 * torch.finfo(dtype).eps * float(b.norm())
    assert found.endings == (("converged",) if float(found.residual_norms) == 0 else ("precision",))


@pytest.mark.parametrize("method", ["cg", "minres"])
@pytest.mark.parametrize("start", [None, 1e-10, 1.0, 1e10])
@pytest.mark.one_in(3)
def test_a_zero_column_is_solved_by_zero_whatever_the_start(method, start):
    A = with_eigenvalues(np.linspace(1, 5, 20))
    B = torch.stack([torch.ones(20, dtype=torch.float64), torch.zeros(20, dtype=torch.float64)], dim=1)
    x0 = None if start is None else torch.full_like(B, start)
    found = hesse.solve(A, B, x0=x0, method=method, tol=1e-5)
    assert found.endings == ("converged", "converged")
    assert float(found.solution[:, 1].abs().max()) == float(found.residual_norms[1]) == 0
    assert int(found.num_iterations[1]) == 0
    alone = hesse.solve(A, B[:, 1], x0=None if x0 is None else x0[:, 1], method=method)
    assert alone.converged
    assert alone.num_products == 0
    assert not bool(alone.solution.any())


def test_a_small_eigenvalue_is_not_taken_for_zero():
    # After the first step the residual is an eigenvector of 1e-9: all but a least-squares solution.
    A = torch.diag(torch.tensor([1.0, 1e-9], dtype=torch.float64))
    found = hesse.solve(A, torch.tensor([1.0, 1e-3], dtype=torch.float64), method="minres", tol=1e-8)
    assert found.converged
    assert torch.allclose(found.solution, torch.tensor([1.0, 1e6], dtype=torch.float64))


def test_a_graded_system_of_1e24_keeps_its_promise_about_the_residual():
    A, b = GRADED.matrix(), GRADED.in_range(1)
    for method in ("cg", "minres"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = hesse.solve(A, b, method=method, tol=1e-9)
        true = float((b - A @ found.solution).norm())
        assert np.isclose(float(found.residual_norms), true, rtol=0.1)
        assert found.converged == (true <= 1.0001e-9)
        assert len(caught) == (not found.converged)


def test_what_rounding_forbids_is_said():
    A = System(10.0 ** np.linspace(-4, 0, 30)).matrix(torch.float32)
    with pytest.warns(hesse.ConvergenceWarning, match="rounding allows no smaller one. Raise tol, use float64"):
        found = hesse.solve(A, torch.ones(30), method="cg", tol=1e-12, max_products=100_000)
    assert found.endings == ("precision",)
    assert not found.converged


def test_each_right_hand_side_stops_by_itself():
    eigenvalues = np.linspace(1, 400, 100)
    matrix = torch.diag(torch.from_numpy(eigenvalues))
    # As many steps as eigenvectors take part.
    B = torch.zeros(100, 4, dtype=torch.float64)
    for column, count in enumerate((1, 3, 7, 12)):
        B[:count, column] = 1
    for method in ("cg", "minres"):
        A = Counting(matrix)
        found = hesse.solve(A, B, method=method, tol=1e-10)
        assert found.num_iterations.tolist() == [1, 3, 7, 12]
        assert A.widths == [4, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 1, 4]
        assert found.num_products == sum(A.widths)


def test_auto_is_conjugate_gradients_where_the_operator_says_that_it_is_semidefinite():
    A = Counting(torch.eye(3))
    assert hesse.solve(A, torch.ones(3)).method == "minres"
    A.positive_semidefinite = True
    assert hesse.solve(A, torch.ones(3)).method == "cg"


@pytest.mark.parametrize("method", ["cg", "minres"])
def test_negative_curvature_is_reported_with_its_direction(method):
    system = SYSTEMS["indefinite"]
    A, b = system.matrix(), system.in_range(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = hesse.solve(A, b[:, 0], method=method, tol=1e-8)
    d = found.negative_curvature
    assert d.shape == (200,)
    assert torch.isclose(d.norm(), torch.ones((), dtype=torch.float64))
    assert found.curvature < 0
    assert np.isclose(found.curvature, float(d @ A @ d))
    # MINRES goes on to the solution; conjugate gradients cannot, and say so.
    assert found.converged == (method == "minres")
    assert [str(each.message) for each in caught if method == "minres"] == []
    if method == "cg":
        assert found.endings == ("negative_curvature",)
        assert "direction of negative curvature. Use method='minres'" in str(caught[0].message)


def test_a_definite_system_reports_no_negative_curvature():
    found = hesse.solve(SYSTEMS["spread"].matrix(), SYSTEMS["spread"].in_range(2), method="minres")
    assert found.negative_curvature is None
    assert found.curvature is None


def test_conjugate_gradients_stop_where_there_is_no_curvature():
    with pytest.warns(hesse.ConvergenceWarning, match="direction without curvature"):
        found = hesse.solve(torch.zeros(3, 3), torch.ones(3), method="cg")
    assert found.endings == ("singular",)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.one_in(3)
def test_conjugate_gradients_take_rounding_for_no_negative_curvature_and_return_nothing_worse_than_zero(seed):
    """Positive semidefinite systems without solution, where the energy falls without end."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    nullity = int(rng.integers(1, n))
    turn, _ = np.linalg.qr(rng.standard_normal((n, n)))
    A = (turn * np.r_[np.zeros(nullity), 10 ** rng.uniform(-1, 1, n - nullity)]) @ turn.T
    A = torch.from_numpy(0.5 * (A + A.T))
    b = torch.from_numpy(rng.standard_normal(n))
    with pytest.warns(hesse.ConvergenceWarning):
        found = hesse.solve(A, b, method="cg", tol=1e-10)
    assert found.endings == ("singular",)
    assert found.negative_curvature is None
    assert float((b - A @ found.solution).norm()) <= (1 + 1e-12) * float(b.norm())


def test_products_that_run_out_are_said_and_never_exceeded():
    A = Counting(SYSTEMS["graded"].matrix())
    for budget in (4, 5, 50, 51):
        A.widths.clear()
        with pytest.warns(hesse.ConvergenceWarning, match="2 of 2 residuals are too large, up to .*: products ran out"):
            found = hesse.solve(A, SYSTEMS["graded"].in_range(2), method="cg", tol=1e-12, max_products=budget)
        assert sum(A.widths) == found.num_products <= budget
        residuals = (SYSTEMS["graded"].in_range(2) - A.matrix @ found.solution).norm(dim=0)
        assert torch.allclose(found.residual_norms, residuals)


def test_a_callback_stops_it_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = hesse.solve(
            SYSTEMS["graded"].matrix(), SYSTEMS["graded"].in_range(1), tol=1e-12, callback=lambda p: p.num_products >= 7
        )
    assert found.endings == ("stopped",)
    assert found.num_products == 8
    assert not found.converged


def test_a_start_at_the_solution_takes_one_product():
    system = SYSTEMS["spread"]
    A, B = system.matrix(), system.in_range(2)
    found = hesse.solve(A, B, x0=system.shortest(B), tol=1e-9)
    assert found.converged
    assert found.num_products == 2
    warm = hesse.solve(A, B, x0=system.shortest(B) + 1e-4, tol=1e-9)
    assert int(warm.num_iterations.max()) < int(hesse.solve(A, B, tol=1e-9).num_iterations.max())
    assert warm.converged


def test_a_right_hand_side_of_zero_takes_no_product():
    found = hesse.solve(torch.eye(4), torch.zeros(4, 2))
    assert found.converged
    assert found.num_products == 0
    assert torch.equal(found.solution, torch.zeros(4, 2))
    assert hesse.solve(torch.eye(4), torch.zeros(4, 0)).solution.shape == (4, 0)


def test_tiny_and_huge_right_hand_sides_neither_underflow_nor_overflow():
    A = SYSTEMS["spread"].matrix(torch.float32)
    b = SYSTEMS["spread"].in_range(1).float()
    for factor in (1e-25, 1e25):
        found = hesse.solve(A, factor * b, tol=1e-3)
        assert found.converged
        assert torch.allclose(found.solution / factor, hesse.solve(A, b, tol=1e-3).solution, atol=1e-4)


def test_the_answer_has_the_structure_of_the_question():
    net = {"w": torch.randn(3, 2, dtype=torch.float64), "b": torch.randn(2, dtype=torch.float64)}

    def f(p):
        return ((p["w"] ** 2).sum() + (p["w"] @ p["b"]).sum() ** 2 + 3 * (p["b"] ** 2).sum()) / 2

    H = hesse.Hessian(f, net)
    b = {"w": torch.ones(3, 2, dtype=torch.float64), "b": torch.zeros(2, dtype=torch.float64)}
    found = hesse.solve(H, b, tol=1e-12)
    dense = torch.linalg.solve(H.to_dense(), H.flatten(b))
    assert set(found.solution) == {"w", "b"}
    assert torch.allclose(H.flatten(found.solution), dense)
    again = hesse.solve(H, b, x0=found.solution, tol=1e-10)
    assert again.num_products == 1
    if found.negative_curvature is not None:
        assert set(found.negative_curvature) == {"w", "b"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"method": "lu"}, "method given to solve should be 'auto', 'cg' or 'minres' but is 'lu'."),
        ({"tol": -1.0}, "tol given to solve should be at least 0 but is -1.0."),
        ({"atol": float("nan")}, "atol given to solve should be at least 0 but is nan."),
        (
            {"max_products": 1},
            "max_products given to solve should be at least 2, for a step and a true residual of each",
        ),
        ({"x0": torch.ones(3, 2)}, "x0 given to solve should have 1 columns, as b has, but has 2."),
        (
            {"preconditioner": torch.eye(3)},
            "The preconditioner given to solve should be an operator of shape (3, 3) but is <class 'torch.Tensor'>.",
        ),
    ],
)
def test_what_makes_no_sense_is_one_sentence(words, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        hesse.solve(torch.eye(3), torch.ones(3), **words)


def test_right_hand_sides_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"should have shape \(3,\) or \(3, k\) but has \(4,\)"):
        hesse.solve(torch.eye(3), torch.ones(4))
    with pytest.raises(ValueError, match="b given to solve holds entries that are not finite"):
        hesse.solve(torch.eye(3), torch.tensor([1.0, torch.nan, 0.0]))
    with pytest.raises(TypeError, match="b given to solve should be a tensor"):
        hesse.solve(torch.eye(3), [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="solve needs a symmetric operator"):
        hesse.solve(torch.ones(2, 2).tril(), torch.ones(2))


def test_a_product_that_is_not_finite_is_named():
    A = Counting(torch.eye(3) * torch.nan)
    with pytest.raises(hesse.NonFiniteProductError, match="Product 1 of solve"):
        hesse.solve(A, torch.ones(3))


@pytest.mark.parametrize("columns", [(), (2,)])
def test_right_hand_sides_of_numpy_give_solutions_of_numpy(columns: tuple[int, ...]) -> None:
    diagonal = np.array([2.0, 3.0, 4.0])
    operator = hesse.as_operator(torch.diag(torch.from_numpy(diagonal)))
    b = np.random.default_rng(0).standard_normal((3, *columns))
    expected = (b.T / diagonal).T
    found = hesse.solve(operator, b, x0=np.ones_like(b), tol=1e-12)
    assert isinstance(found.solution, np.ndarray)
    np.testing.assert_allclose(found.solution, expected)
    structured = hesse.Hessian(lambda x: (x["a"] ** 2).sum(), {"a": torch.ones(3, dtype=torch.float64)})
    np.testing.assert_allclose(hesse.solve(structured, b, tol=1e-12).solution, b / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.one_in(2)
def test_only_single_precision_is_told_of_double(dtype: torch.dtype) -> None:
    A = hesse.as_operator(torch.diag(torch.logspace(-3, 0, 30, dtype=dtype)))
    with pytest.warns(hesse.ConvergenceWarning) as caught:
        found = hesse.solve(A, torch.ones(30, dtype=dtype), tol=0, max_products=500, method="cg")
    assert found.endings == ("precision",)
    assert ("float64" in str(caught[0].message)) == (dtype == torch.float32)


@pytest.mark.parametrize("method", ["cg", "minres"])
def test_the_solution_of_a_long_system_can_be_resized(method):
    n = 2**20
    H = hesse.Hessian(lambda x: (x**2).sum(), torch.ones(n))
    solution = hesse.solve(H, torch.ones(n), method=method).solution
    assert bool((solution == 0.5).all())
    assert solution.resize_(n + 1).shape == (n + 1,)
