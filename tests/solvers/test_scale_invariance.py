"""Every question on A·s and b·s, s a power of two: the digits of s = 1 times s, as far as floating point goes."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

import hesse

from .known_matrices import with_eigenvalues

N = 120
VALUES = {
    "definite": np.concatenate([np.linspace(1, 3, N - 6), 4.0 ** np.arange(1, 7)]),
    "indefinite": np.concatenate([np.linspace(-2, -1, 20), np.linspace(1, 3, N - 26), 2.0 ** np.arange(2, 8)]),
    # Its trace is found by deflation.
    "decaying": 0.5 ** np.minimum(np.arange(N), 12.0),
}


def rounded(name, dtype):
    """The matrix in multiples of 2⁻¹⁰, so that a multiple by a power of two is exact down to subnormal numbers."""
    return (torch.round(with_eigenvalues(VALUES[name]) * 2**10) / 2**10).to(dtype)


def power_of_two(tensor, exponent):
    """tensor·2^exponent, for exponents whose power is no number of the dtype as well."""
    return torch.from_numpy(np.ldexp(tensor.numpy(), exponent))


def right_hand_side(dtype):
    return torch.from_numpy(np.random.default_rng(0).standard_normal((N, 2))).to(dtype)


def pairs(A, e, **words):
    found = hesse.eigsh(A, rng=0, **words)
    return [(found.values, 1), (found.residuals, 1), (found.vectors, 0)], (
        found.bounds,
        found.converged,
        found.num_products,
    )


def estimate(found):
    return [(found.estimate, 1), (found.standard_error, 1), (found.interval, 1)], (found.converged, found.num_products)


def traces(A, e, **words):
    found = hesse.trace(A, rng=0, **words)
    numbers, rest = estimate(found)
    return [*numbers, (found.error_estimate, 1)], (*rest, found.method)


def norm(A, e, **words):
    return estimate(hesse.frobenius_norm(A, rng=0, **words))


def diagonals(A, e, **words):
    found = hesse.diagonal(A, rng=0, **words)
    rest = found.converged, found.num_products, found.method
    return [(found.estimate, 1), (found.errors, 1), (found.error_estimate, 1)], rest


def density(A, e, **words):
    found = hesse.spectral_density(A, rng=0, num_probes=3, **words)
    numbers = [
        (found.grid, 1),
        (found.density, -1),
        (found.low, -1),
        (found.high, -1),
        (found.nodes, 1),
        (found.sigma, 1),
    ]
    return [*numbers, (found.weights, 0), (found.moment(1)[0], 1)], (found.converged, found.num_products)


def sums(A, e, **words):
    found = hesse.trace_of(words.pop("f"), A, rng=0, **words)
    numbers, rest = estimate(found)
    return [*numbers, (found.quadrature_error, 1)], (*rest, found.num_probes)


def solutions(A, e, *, right=1, start=None, **words):
    """b·s^right; x goes with s^(right − 1)."""
    b = power_of_two(right_hand_side(A.dtype), right * e)
    x0 = None if start is None else power_of_two(torch.full_like(b, start), (right - 1) * e)
    found = hesse.solve(A, b, x0=x0, **words)
    numbers = [(found.solution, right - 1), (found.residual_norms, right), (found.curvature or 0.0, 1)]
    return numbers, (found.endings, found.num_products, found.num_iterations.tolist())


def shifted(A, e, **words):
    b = power_of_two(right_hand_side(A.dtype)[:, 0], e)
    found = hesse.solve_shifted(A, b, [math.ldexp(shift, e) for shift in (0.0, 0.25, 8.0)], **words)
    numbers = [(torch.stack(found.solutions), 0), (found.residual_norms, 1)]
    return numbers, (found.endings, found.num_products, found.num_iterations.tolist())


def preconditioned(A, e, *, kind, **words):
    M = hesse.jacobi(hesse.diagonal(A, rng=0)) if kind == "jacobi" else hesse.nystrom(A, 8, rng=0)
    numbers, rest = solutions(A, e, preconditioner=M, **words)
    return [*numbers, *([(M.values, 1), (M.vectors, 0)] if kind == "nystrom" else [])], rest


QUESTIONS = {
    "eigsh LA": (pairs, "definite", {"k": 3}),
    "eigsh SA": (pairs, "indefinite", {"k": 3, "which": "SA"}),
    "eigsh both ends, by blocks, certified": (
        pairs,
        "indefinite",
        {"k": 4, "which": "BE", "block_size": 2, "certify": True},
    ),
    "eigsh, a small basis": (pairs, "indefinite", {"k": 2, "which": "LM", "basis_size": 12}),
    "trace": (traces, "decaying", {"tol": 0.02}),
    "trace, hutchinson": (traces, "indefinite", {"method": "hutchinson"}),
    "trace, hutch++": (traces, "decaying", {"method": "hutch++"}),
    "trace, xtrace": (traces, "decaying", {"method": "xtrace"}),
    "trace, exact": (traces, "indefinite", {"method": "exact"}),
    "frobenius_norm": (norm, "decaying", {}),
    "diagonal": (diagonals, "decaying", {}),
    "diagonal, hutchinson": (diagonals, "definite", {"method": "hutchinson"}),
    "diagonal, xdiag": (diagonals, "decaying", {"method": "xdiag"}),
    "diagonal, exact": (diagonals, "indefinite", {"method": "exact"}),
    "spectral_density": (density, "indefinite", {"num_steps": 20}),
    "spectral_density, all eigenvalues": (density, "indefinite", {"num_steps": 60}),
    "trace_of": (sums, "indefinite", {"f": torch.abs}),
    "trace_of, few products": (sums, "indefinite", {"f": torch.relu, "max_products": 60, "num_steps": 8}),
    "cg": (solutions, "definite", {"method": "cg"}),
    "cg, b alone": (solutions, "definite", {"method": "cg", "right": 0}),
    "cg, negative curvature": (solutions, "indefinite", {"method": "cg"}),
    "cg, tol=0": (solutions, "definite", {"method": "cg", "tol": 0.0}),
    "cg, a start": (solutions, "definite", {"method": "cg", "start": 0.5}),
    "minres": (solutions, "indefinite", {"method": "minres"}),
    "minres, a start": (solutions, "indefinite", {"method": "minres", "start": 0.5}),
    "minres, b alone": (solutions, "indefinite", {"method": "minres", "right": 0}),
    "jacobi, cg": (preconditioned, "definite", {"kind": "jacobi", "method": "cg"}),
    "jacobi, minres": (preconditioned, "definite", {"kind": "jacobi", "method": "minres"}),
    "nystrom": (preconditioned, "definite", {"kind": "nystrom", "method": "cg"}),
    "solve_shifted": (shifted, "definite", {}),
    "solve_shifted, jacobi": (shifted, "definite", {"preconditioner": None}),
}
# Those whose way to the answer differs most.
QUICK = [
    ("eigsh LA", torch.float32),
    ("minres", torch.float64),
    ("trace", torch.float32),
    ("spectral_density", torch.float32),
]
ENDS = {torch.float32: (-100, 100), torch.float64: (-830, 830)}
BETWEEN = {
    torch.float32: (-95, -64, -33, -7, 9, 40, 66, 97),
    torch.float64: (-700, -515, -260, -100, -9, 8, 130, 511, 699),
}


def answers(name, dtype, exponent):
    question, matrix, words = QUESTIONS[name]
    A = power_of_two(rounded(matrix, dtype), exponent)
    if "preconditioner" in words:
        D = A.diagonal()
        words = {"preconditioner": lambda shift: hesse.jacobi(D + shift)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hesse.ConvergenceWarning)
        numbers, rest = question(A, exponent, **words)
    back = [(np.ldexp(np.asarray(value, dtype=np.float64), -power * exponent), power) for value, power in numbers]
    return back, rest


def check(name, dtype, exponent):
    wanted, same = answers(name, dtype, 0)
    found, rest = answers(name, dtype, exponent)
    assert rest == same
    for (one, power), (other, _) in zip(wanted, found, strict=True):
        # Only numbers below float64's range have other digits.
        np.testing.assert_allclose(other, one, rtol=0, atol=math.ldexp(1, -1060 - power * exponent))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=() if (name, dtype) in QUICK else pytest.mark.exhaustive, id=f"{name}, {dtype}")
        for name in QUESTIONS
        for dtype in ENDS
    ],
)
def test_a_power_of_two_changes_no_digit(name, dtype):
    for exponent in ENDS[dtype]:
        check(name, dtype, exponent)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", ENDS, ids=str)
@pytest.mark.parametrize("name", QUESTIONS)
def test_no_power_of_two_changes_a_digit(name, dtype):
    for exponent in BETWEEN[dtype]:
        check(name, dtype, exponent)
