"""``eigsh`` by blocks: as many products at once as asked for, clusters, and the relations that a basis keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hesse
from hesse._solvers.eigen.basis import Basis
from hesse._solvers.run import Products

from ..known_matrices import with_eigenvalues
from .test_eigsh import SPREAD, Counting


class Watched(Counting):
    """A matrix that notes how many vectors came at once."""

    def __init__(self, matrix):
        super().__init__(matrix)
        self.widths = []

    def matmat(self, V):
        self.widths.append(V.shape[1])
        return super().matmat(V)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("block_size", [2, 3, 8])
@pytest.mark.parametrize(
    ("which", "k", "expected"),
    [
        ("LA", 5, np.sort(SPREAD)[::-1][:5]),
        ("SA", 2, np.sort(SPREAD)[:2]),
        ("LM", 5, SPREAD[np.argsort(-abs(SPREAD))][:5]),
        ("BE", (1, 3), np.sort(SPREAD)[[0, -3, -2, -1]]),
    ],
)
@pytest.mark.one_in(5)
def test_blocks_find_each_end_of_a_known_spectrum(which, k, expected, block_size, dtype):
    A = Watched(with_eigenvalues(SPREAD, dtype))
    found = hesse.eigsh(A, k, which=which, block_size=block_size, rng=0)
    assert found.converged
    assert np.abs(found.values.numpy() - expected).max() <= 1e-5 * abs(SPREAD).max()
    assert found.num_products == A.products == sum(A.widths)
    # Looks for missing ones go one by one, and at its end the basis may have room for less than a block.
    looking = A.widths.count(1)
    assert looking <= found.num_looking + 1
    assert sum(width != block_size for width in A.widths) <= looking + 1
    gram = found.vectors.mT @ found.vectors
    assert torch.allclose(gram, torch.eye(len(expected), dtype=dtype), atol=1e3 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("multiplicity", [2, 4])
@pytest.mark.one_in(2)
def test_a_block_sees_as_many_equal_eigenvalues_as_it_has_vectors(multiplicity):
    values = np.concatenate([[10.0] * multiplicity, [9.0] * multiplicity, np.linspace(-1, 6, 700)])
    single, block = (Watched(with_eigenvalues(values)) for _ in range(2))
    one = hesse.eigsh(single, 2 * multiplicity, rng=0, max_products=1000)
    many = hesse.eigsh(block, 2 * multiplicity, rng=0, max_products=1000, block_size=multiplicity)
    for found in (one, many):
        assert found.converged
        np.testing.assert_allclose(found.values, [10.0] * multiplicity + [9.0] * multiplicity, rtol=1e-6)
    # Copies that a single vector cannot see come in by further vectors, one after another.
    assert many.num_looking <= one.num_looking
    assert len(block.widths) < len(single.widths)


def test_a_cluster_that_is_nearly_one_eigenvalue_is_resolved():
    cluster = 5 + 1e-7 * np.arange(6)
    A = with_eigenvalues(np.concatenate([cluster, np.linspace(0, 4, 300)]))
    for block_size in (1, 3, 6):
        found = hesse.eigsh(A, 6, tol=1e-10, block_size=block_size, rng=0, max_products=1000)
        assert found.converged
        np.testing.assert_allclose(found.values, cluster[::-1], rtol=0, atol=1e-8)


@pytest.mark.parametrize("values", [[7.0], [2.0, -3.0], [1.0] * 9, [0.0] * 12, [3.0] + [2.0] * 5 + [1.0] * 4], ids=str)
@pytest.mark.parametrize("block_size", [2, 5, 20])
@pytest.mark.one_in(4)
def test_blocks_wider_than_the_spaces_there_are(values, block_size):
    for k in range(1, len(values) + 1):
        A = Watched(with_eigenvalues(values))
        found = hesse.eigsh(A, k, which="LA", block_size=block_size, rng=k)
        assert found.converged
        np.testing.assert_allclose(found.values, np.sort(values)[::-1][:k], atol=1e-12)
        assert found.num_products == A.products


def test_restarts_by_blocks_in_the_smallest_basis():
    for block_size in (2, 4):
        found = hesse.eigsh(
            with_eigenvalues(SPREAD), 4, block_size=block_size, basis_size=4 + 2 * block_size, max_products=3000, rng=0
        )
        assert found.converged
        np.testing.assert_allclose(found.values, np.sort(SPREAD)[::-1][:4], rtol=1e-9)


def test_a_budget_is_kept_to_the_product():
    for budget in range(5, 40, 3):
        A = Watched(with_eigenvalues(np.linspace(0, 1, 300)))
        with pytest.warns(hesse.ConvergenceWarning):
            found = hesse.eigsh(A, 4, max_products=budget, block_size=4, rng=0)
        assert found.num_products == A.products == budget


def test_a_block_may_begin_with_the_callers_vectors():
    A = with_eigenvalues(SPREAD)
    before = hesse.eigsh(A, 3, rng=0)
    moved = Watched(A + 1e-6 * with_eigenvalues(SPREAD[::-1].copy()))
    cold = Watched(moved.matrix)
    expected = hesse.eigsh(cold, 3, tol=1e-8, block_size=3, rng=0)
    found = hesse.eigsh(moved, 3, tol=1e-8, block_size=3, rng=0, start=before.vectors)
    torch.testing.assert_close(found.values, expected.values)
    assert moved.products < cold.products


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("widths", [[1] * 12, [3] * 6, [4, 1, 2, 4, 3, 1], [2, 5, 5]], ids=str)
def test_the_relations_of_a_basis_hold_whatever_the_widths(widths, dtype):
    matrix = with_eigenvalues(SPREAD, dtype)
    eps = torch.finfo(dtype).eps * abs(SPREAD).max()
    products = Products(matrix, "test", max_products=10**6, callback=None, progress=False)
    basis = Basis(products, 60, keep_products=True)
    for column in torch.randn(170, max(widths), dtype=dtype, generator=torch.Generator().manual_seed(0)).split(
        1, dim=1
    ):
        basis.push(column)

    def holds():
        Q, P = basis.vectors.double(), basis.next(basis.width).double()
        both = torch.cat([Q, P], dim=1)
        assert torch.allclose(both.mT @ both, torch.eye(both.shape[1], dtype=torch.float64), atol=30 * eps)
        A = matrix.double()
        assert torch.allclose(basis.matrix, Q.mT @ A @ Q, atol=30 * eps)
        assert torch.allclose(A @ Q, Q @ basis.matrix + P @ basis.couplings(), atol=30 * eps)
        assert torch.allclose(basis.images.double(), A @ Q, atol=30 * eps)

    for width in widths:
        basis.grow(width)
        holds()
    # Some Ritz vectors are made the first, and then only the best are kept.
    values, coordinates = torch.linalg.eigh(basis.matrix)
    chosen = torch.tensor([basis.size - 1, 0, 3])
    wanted = basis.ritz_vectors(coordinates[:, chosen]).double()
    basis.turn(coordinates[:, chosen])
    holds()
    np.testing.assert_allclose((basis.vectors[:, :3].double().mT @ wanted).abs(), np.eye(3), atol=30 * eps)
    R = matrix.double() @ wanted - wanted * values[chosen]
    assert torch.allclose(basis.leftovers(3).abs(), (R.mT @ R).abs(), atol=30 * eps * abs(SPREAD).max())
    norms = basis.residual_norms(torch.eye(basis.size, 3, dtype=torch.float64), basis.matrix.diagonal()[:3])
    assert torch.allclose(norms, R.norm(dim=0), atol=30 * eps)
    values, coordinates = torch.linalg.eigh(basis.matrix)
    basis.restart(coordinates[:, -5:], values[-5:])
    holds()
    basis.grow(2)
    holds()


def test_a_block_of_no_vectors_is_refused():
    with pytest.raises(ValueError, match=r"^block_size given to eigsh should be at least 1 but is 0\.$"):
        hesse.eigsh(torch.eye(4), 1, block_size=0)
    with pytest.raises(ValueError, match=r"^basis_size given to eigsh should be at least 7 for k=1 but is 6\.$"):
        hesse.eigsh(torch.eye(20), 1, block_size=3, basis_size=6)
