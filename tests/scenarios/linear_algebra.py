"""Factorizations, solves and spectra."""

from __future__ import annotations

import torch
from torch import Tensor

from .scenario import Case, draw, scenario


def _near_identity(size: int) -> Tensor:
    return 0.3 * draw(size, size) + 2 * torch.eye(size, dtype=torch.float64)


def _definite(x: Tensor) -> Tensor:
    return x @ x.mT + torch.eye(x.shape[-1], dtype=torch.float64)


@scenario
def solve_by_matrix_and_right_side() -> Case:
    return Case(lambda a, b: (torch.linalg.solve(a, b) ** 2).sum(), (_near_identity(3), draw(3, 2)))


@scenario
def triangular_solve() -> Case:
    return Case(
        lambda a, b: (torch.linalg.solve_triangular(a.triu(), b, upper=True) ** 2).sum(),
        (_near_identity(3), draw(3, 2)),
    )


@scenario
def cholesky_factor() -> Case:
    return Case(lambda x: torch.sin(torch.linalg.cholesky(_definite(x))).sum(), draw(3, 3))


@scenario
def eigenvalues_of_a_symmetric_matrix() -> Case:
    weights = draw(3)
    return Case(lambda x: weights @ torch.linalg.eigvalsh(x + x.mT) ** 2, draw(3, 3))


@scenario
def projector_on_leading_eigenvectors() -> Case:
    weights = draw(4, 4)

    def func(x: Tensor) -> Tensor:
        # A projector does not depend on the signs of the eigenvectors, which autograd leaves open.
        vectors = torch.linalg.eigh(x + x.mT).eigenvectors[:, 2:]
        return (weights * (vectors @ vectors.mT)).sum()

    return Case(func, draw(4, 4) + torch.diag(torch.arange(4.0, dtype=torch.float64)))


@scenario
def singular_values() -> Case:
    weights = draw(3)
    return Case(lambda x: weights @ torch.linalg.svdvals(x) ** 2 + torch.linalg.svdvals(x).sum(), draw(4, 3))


@scenario
def qr_factors() -> Case:
    def func(x: Tensor) -> Tensor:
        q, r = torch.linalg.qr(x)
        return torch.sin(q).sum() + (r**3).sum()

    return Case(func, draw(4, 3))


@scenario
def matrix_exponential() -> Case:
    return Case(lambda x: torch.sin(torch.linalg.matrix_exp(x)).sum(), 0.5 * draw(3, 3))


@scenario
def inverse_and_determinant() -> Case:
    return Case(
        lambda x: torch.linalg.inv(x).sum() * torch.linalg.det(x) + torch.linalg.slogdet(x).logabsdet,
        _near_identity(3),
    )


@scenario
def pseudo_inverse() -> Case:
    return Case(lambda x: torch.sin(torch.linalg.pinv(x)).sum(), draw(4, 2))


@scenario
def least_squares_solution() -> Case:
    return Case(lambda a, b: (torch.linalg.lstsq(a, b, driver="gels").solution ** 2).sum(), (draw(4, 2), draw(4, 1)))


@scenario
def matrix_power_and_trace() -> Case:
    return Case(lambda x: torch.trace(torch.linalg.matrix_power(x, 4)), draw(3, 3))


@scenario
def nuclear_and_frobenius_norms() -> Case:
    return Case(lambda x: torch.linalg.matrix_norm(x, "nuc") * torch.linalg.matrix_norm(x, "fro"), draw(3, 2))


@scenario
def einsum_of_three_factors() -> Case:
    weights = draw(2, 3)
    return Case(
        lambda a, b, c: (weights * torch.einsum("ij,jkl,lk->ik", a, b, c)).sum() ** 2,
        (draw(2, 2), draw(2, 3, 2), draw(2, 3)),
    )


@scenario
def kronecker_and_batched_products() -> Case:
    def func(a: Tensor, b: Tensor) -> Tensor:
        return torch.tanh(torch.kron(a, b)).sum() + torch.bmm(a.expand(2, 2, 2), b.expand(2, 2, 2)).pow(3).sum()

    return Case(func, (draw(2, 2), draw(2, 2)))
