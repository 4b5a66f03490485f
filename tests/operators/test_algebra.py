"""Sums, multiples, shifts, transposes and wrapped matrices against the same algebra on dense tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

import hesse

DOUBLE = torch.float64
GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(4, 4, dtype=DOUBLE, generator=GENERATOR)
SYMMETRIC = A + A.mT
WIDE = torch.randn(3, 4, dtype=DOUBLE, generator=GENERATOR)
V = torch.randn(4, 2, dtype=DOUBLE, generator=GENERATOR)


def hessian_of(matrix: Tensor) -> hesse.Hessian:
    return hesse.Hessian(lambda x: x @ matrix @ x / 2, torch.zeros(4, dtype=DOUBLE))


def test_sums_multiples_and_shifts_are_those_of_the_matrices() -> None:
    H, D = hessian_of(SYMMETRIC), hesse.as_operator(SYMMETRIC)
    eye = torch.eye(4, dtype=DOUBLE)
    for operator, dense in [
        (H + D, 2 * SYMMETRIC),
        (H - 3 * D, -2 * SYMMETRIC),
        (-H, -SYMMETRIC),
        (torch.tensor(2.0) * H, 2 * SYMMETRIC),
        (H.shift(1e-3), SYMMETRIC + 1e-3 * eye),
        (H + 1e-3 * hesse.Identity(H), SYMMETRIC + 1e-3 * eye),
        ((2 * H).shift(1) - hesse.Identity(H), 2 * SYMMETRIC),
    ]:
        torch.testing.assert_close(operator @ V, dense @ V)
        torch.testing.assert_close(operator @ V[:, 0], dense @ V[:, 0])
        torch.testing.assert_close(operator.to_dense(), dense)
        assert operator.symmetric
        assert operator.T is operator


def test_a_number_plus_an_operator_is_refused_and_names_shift() -> None:
    H = hessian_of(SYMMETRIC)
    for wrong in (lambda: H + 1e-3, lambda: 1e-3 + H, lambda: H - 1e-3, lambda: H + torch.tensor(1.0)):
        with pytest.raises(TypeError, match=r"H\.shift\("):
            wrong()
    with pytest.raises(TypeError, match=r"H\.shift\(-0\.001\)"):
        H - 1e-3
    for wrong in (lambda: H + "matrix", lambda: H + SYMMETRIC, lambda: SYMMETRIC - H):
        with pytest.raises(TypeError, match=r"is not defined\. Wrap a matrix with hesse\.as_operator"):
            wrong()


def test_operators_sum_and_multiply_from_the_left() -> None:
    H, J = hessian_of(SYMMETRIC), hesse.as_operator(WIDE)
    torch.testing.assert_close(sum([H, H]) @ V, 2 * SYMMETRIC @ V)
    torch.testing.assert_close(torch.ones(3, dtype=DOUBLE) @ J, WIDE.sum(0))
    torch.testing.assert_close(torch.ones(2, 3, dtype=DOUBLE) @ J, torch.ones(2, 3, dtype=DOUBLE) @ WIDE)


def test_a_wrapped_matrix_that_changed_is_refused() -> None:
    matrix = torch.eye(2)
    operator = hesse.as_operator(matrix)
    matrix[0, 1] = 5
    with pytest.raises(hesse.StalePointError, match="The matrix has changed"):
        operator @ torch.ones(2)


def test_complex_numpy_vectors_and_empty_ones() -> None:
    scipy_operator = hessian_of(SYMMETRIC).to_scipy()
    with pytest.raises(TypeError, match="The operator is real"):
        scipy_operator @ np.ones(4, dtype=complex)
    assert scipy_operator.matmat(np.zeros((4, 0))).shape == (4, 0)


def test_operators_of_different_shape_do_not_add() -> None:
    with pytest.raises(ValueError, match=r"one shape and device but got \(4, 4\) on cpu and \(3, 4\)"):
        hessian_of(SYMMETRIC) + hesse.as_operator(WIDE)
    with pytest.raises(ValueError, match="needs a square operator"):
        hesse.Identity(hesse.as_operator(WIDE))


def test_a_sum_keeps_the_structure_of_its_parts() -> None:
    def func(d: dict[str, Tensor]) -> Tensor:
        return (d["a"] ** 2).sum() * d["b"]

    inputs = {"a": torch.ones(2), "b": torch.tensor(2.0)}
    H = hesse.Hessian(func, inputs)
    product = (H + 2 * H.shift(1.0)) @ inputs
    expected = H @ inputs
    torch.testing.assert_close(product, {name: 3 * expected[name] + 2 * inputs[name] for name in inputs})


def test_mixed_precision_sums_are_in_the_wider() -> None:
    total = hesse.as_operator(SYMMETRIC.float()) + hesse.as_operator(SYMMETRIC)
    assert total.dtype == DOUBLE
    torch.testing.assert_close(total @ V, 2 * SYMMETRIC @ V, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda matrix: matrix,
        lambda matrix: matrix.numpy(),
        lambda matrix: scipy.sparse.csr_array(matrix.numpy()),
        lambda matrix: scipy.sparse.linalg.aslinearoperator(matrix.numpy()),
    ],
    ids=["tensor", "numpy", "sparse", "LinearOperator"],
)
def test_dense_and_scipy_matrices_are_wrapped_into_the_protocol(wrap: Any) -> None:
    for matrix in (SYMMETRIC, WIDE):
        operator = hesse.as_operator(wrap(matrix))
        assert operator.shape == tuple(matrix.shape)
        assert operator.dtype == DOUBLE
        torch.testing.assert_close(operator.matmat(V), matrix @ V)
        torch.testing.assert_close(operator.rmatmat(matrix @ V), matrix.mT @ matrix @ V)
        torch.testing.assert_close(operator.T @ (matrix @ V), matrix.mT @ matrix @ V)
        torch.testing.assert_close(operator.T.T.to_dense(), matrix)
        torch.testing.assert_close(operator.to_dense(), matrix)
        torch.testing.assert_close(operator.gram(V, V), V.mT @ V)


def test_symmetry_is_known_where_it_can_be() -> None:
    assert hesse.as_operator(SYMMETRIC).symmetric
    assert not hesse.as_operator(A).symmetric
    assert hesse.as_operator(scipy.sparse.csr_array(SYMMETRIC.numpy())).symmetric
    assert not hesse.as_operator(scipy.sparse.linalg.aslinearoperator(SYMMETRIC.numpy())).symmetric


def test_what_is_no_operator_is_named() -> None:
    with pytest.raises(TypeError, match="but got <class 'str'>"):
        hesse.as_operator("matrix")
    with pytest.raises(ValueError, match="two dimensions"):
        hesse.as_operator(torch.ones(3))
    with pytest.raises(TypeError, match="should be real"):
        hesse.as_operator(np.eye(2, dtype=complex))


def test_scipy_finds_the_eigenvalues_through_to_scipy() -> None:
    H = hessian_of(SYMMETRIC)
    values = scipy.sparse.linalg.eigsh(H.to_scipy(), k=2, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(values), torch.linalg.eigvalsh(SYMMETRIC)[-2:].numpy(), rtol=1e-10)
    J = hesse.Jacobian(lambda x: WIDE @ x, torch.zeros(4, dtype=DOUBLE))
    np.testing.assert_allclose(J.to_scipy() @ V.numpy(), (WIDE @ V).numpy())
    np.testing.assert_allclose(J.to_scipy().H @ np.ones(3), WIDE.mT.sum(1).numpy())
    np.testing.assert_allclose(scipy.sparse.linalg.svds(J.to_scipy(), k=1)[1], torch.linalg.svdvals(WIDE)[:1].numpy())
