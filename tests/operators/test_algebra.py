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


def test_products_of_dense_and_sparse_matrices_are_exact_under_autocast() -> None:
    matrix, columns = WIDE.float(), torch.randn(WIDE.shape[1], 3)
    expected = matrix.double() @ columns.double()
    for A in (matrix, matrix.to_sparse()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close((hesse.as_operator(A) @ columns).double(), expected, rtol=1e-5, atol=1e-5)


def test_symmetry_is_known_where_it_can_be() -> None:
    assert hesse.as_operator(SYMMETRIC).symmetric
    assert not hesse.as_operator(A).symmetric
    assert hesse.as_operator(scipy.sparse.csr_array(SYMMETRIC.numpy())).symmetric
    assert not hesse.as_operator(scipy.sparse.linalg.aslinearoperator(SYMMETRIC.numpy())).symmetric


@pytest.mark.parametrize(
    "wrap",
    [
        scipy.sparse.linalg.aslinearoperator,
        lambda matrix: matrix + np.triu(np.full((4, 4), 1e-13)),
        lambda matrix: scipy.sparse.csr_array(matrix + np.triu(np.full((4, 4), 1e-13))),
        lambda matrix: torch.from_numpy(matrix + np.triu(np.full((4, 4), 1e-13))),
        lambda matrix: hesse.Jacobian(lambda x: SYMMETRIC @ x, torch.zeros(4, dtype=DOUBLE)),
    ],
    ids=["LinearOperator", "NumPy", "sparse", "tensor", "Jacobian"],
)
def test_what_does_not_say_that_it_is_symmetric_can_be_taken_so(wrap: Any) -> None:
    A = wrap(SYMMETRIC.numpy())
    with pytest.raises(ValueError, match=r"If it is, give hesse\.as_operator\(A, symmetric=True\)"):
        hesse.eigsh(A, 1)
    operator = hesse.as_operator(A, symmetric=True)
    assert operator.symmetric
    found = hesse.eigsh(operator, 4, which="LA", rng=0)
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(SYMMETRIC).flip(0))
    torch.testing.assert_close(operator.rmatmat(V), SYMMETRIC @ V)
    torch.testing.assert_close(operator.to_dense(), SYMMETRIC)
    # What was given stays as it was.
    assert not getattr(A, "symmetric", False)
    assert hesse.as_operator(operator, symmetric=True) is operator
    with pytest.raises(TypeError, match="symmetric given to as_operator should be True or False but is 'yes'"):
        hesse.as_operator(A, symmetric="yes")  # type: ignore[arg-type]  # on purpose


def test_what_is_not_symmetric_is_not_taken_so() -> None:
    for wrong in (A, A.numpy(), scipy.sparse.csr_array(A.numpy())):
        with pytest.raises(
            ValueError, match=r"entries differ from those of its transpose by up to .*\(A \+ A\.T\) / 2"
        ):
            hesse.as_operator(wrong, symmetric=True)
    with pytest.raises(ValueError, match=r"needs a square operator but got one of shape \(3, 4\)"):
        hesse.as_operator(scipy.sparse.linalg.aslinearoperator(WIDE.numpy()), symmetric=True)


def test_what_is_no_operator_is_named() -> None:
    with pytest.raises(TypeError, match="but got <class 'str'>"):
        hesse.as_operator("matrix")
    with pytest.raises(ValueError, match="two dimensions"):
        hesse.as_operator(torch.ones(3))
    with pytest.raises(ValueError, match=r"two dimensions but has shape \(3,\)"):
        hesse.as_operator(np.ones(3))
    with pytest.raises(TypeError, match="like given to Identity should be an operator but has type <class 'int'>"):
        hesse.Identity(3)  # type: ignore[arg-type]  # wrong on purpose
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


def test_products_are_those_of_the_matrices() -> None:
    H, L = hessian_of(SYMMETRIC), hesse.as_operator(A[:3, :3])
    J = hesse.Jacobian(lambda x: WIDE @ x, torch.zeros(4, dtype=DOUBLE))
    for operator, dense in [
        (H @ H, SYMMETRIC @ SYMMETRIC),
        (J @ H, WIDE @ SYMMETRIC),
        (J.T @ L @ J, WIDE.mT @ A[:3, :3] @ WIDE),
        ((J.T @ L @ J).T, WIDE.mT @ A[:3, :3].mT @ WIDE),
        (J.T @ (2 * L - L.T) @ J, WIDE.mT @ (2 * A[:3, :3] - A[:3, :3].mT) @ WIDE),
        ((J @ H @ J.T).shift(2.0), WIDE @ SYMMETRIC @ WIDE.mT + 2 * torch.eye(3, dtype=DOUBLE)),
    ]:
        assert operator.shape == tuple(dense.shape)
        block = torch.randn(dense.shape[1], 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(operator @ block, dense @ block)
        torch.testing.assert_close(operator @ block[:, 0], dense @ block[:, 0])
        torch.testing.assert_close(operator.to_dense(), dense)
        rows = torch.randn(2, dense.shape[0], dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(rows @ operator, rows @ dense)
        torch.testing.assert_close(rows[0] @ operator, rows[0] @ dense)
        torch.testing.assert_close(operator.rows([-1]), dense[[-1]])


def test_a_product_that_reads_the_same_backward_is_symmetric() -> None:
    H, D, U = hessian_of(SYMMETRIC), hesse.as_operator(SYMMETRIC), hesse.as_operator(A)
    J, P = hesse.as_operator(WIDE), hesse.as_operator(torch.eye(3, dtype=DOUBLE))
    P.positive_semidefinite = True
    for symmetric in (H @ H, J.T @ J, J.T @ P @ J, J.T @ (P @ J), H @ D @ H, U @ D @ U.T, (P @ J).T @ (P @ J)):
        assert symmetric.symmetric
        assert symmetric.T is symmetric
        torch.testing.assert_close(symmetric.to_dense(), symmetric.to_dense().mT)
    for other in (H @ D, U @ U, J.T @ hesse.as_operator(A[:3, :3]) @ J, U @ D @ U, D @ H @ H, J @ J.T @ P):
        assert not other.symmetric
        torch.testing.assert_close(other.T.to_dense(), other.to_dense().mT)
    for semidefinite in (H @ H, J.T @ J, J.T @ P @ J, (P @ J).T @ (P @ J), U @ U.T):
        assert semidefinite.positive_semidefinite
        assert torch.linalg.eigvalsh(semidefinite.to_dense()).min() >= -1e-12
    assert not (H @ D @ H).positive_semidefinite


def test_products_keep_structure_at_their_ends_and_precision_of_the_widest() -> None:
    inputs = {"a": torch.ones(2), "b": torch.tensor(2.0)}
    J = hesse.Jacobian(lambda d: d["a"] ** 2 * d["b"], inputs)
    product = (J.T @ J) @ inputs
    dense = torch.tensor([[4.0, 0.0, 1.0], [0.0, 4.0, 1.0]])
    torch.testing.assert_close(J.flatten(product), dense.mT @ dense @ J.flatten(inputs))
    assert (hesse.as_operator(WIDE.float()) @ hesse.as_operator(SYMMETRIC)).dtype == DOUBLE


def test_products_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"but got shapes \(3, 4\) and \(3, 4\) side by side"):
        hesse.as_operator(WIDE) @ hesse.as_operator(WIDE)


def test_operators_of_the_same_entries_in_another_order_do_not_mix() -> None:
    a, b = torch.ones(2), torch.ones(3)

    def func(d: dict[str, Tensor]) -> Tensor:
        return d["a"].sum() ** 2 * d["b"].prod()

    first, second = hesse.Hessian(func, {"a": a, "b": b}), hesse.Hessian(func, {"b": b, "a": a})
    for mixed in (lambda: first + second, lambda: first @ second, lambda: second - 2 * first):
        with pytest.raises(ValueError, match=r"come in different orders, (a, b and b, a|b, a and a, b)"):
            mixed()


def test_a_sum_of_operators_that_disagree_on_structure_has_none() -> None:
    first = hesse.Hessian(lambda x: (x**2).sum(), torch.ones(3))
    second = hesse.Hessian(lambda d: (d["x"] ** 2).sum(), {"x": torch.ones(3)})
    for total in (first + second, first + second + first, second + hesse.as_operator(torch.eye(3)) + first):
        assert total.domain is None
        torch.testing.assert_close(total @ torch.ones(3), total.to_dense() @ torch.ones(3))


def test_products_carry_derivatives_where_all_factors_do() -> None:
    x = torch.tensor([1.0, 2.0], dtype=DOUBLE, requires_grad=True)
    H = hesse.Hessian(lambda x: (x**3).sum(), x, create_graph=True)
    (slope,) = torch.autograd.grad((H @ H @ torch.ones(2, dtype=DOUBLE)).sum(), x)
    # (6x)² by x.
    torch.testing.assert_close(slope, 72 * x.detach())
    assert (H @ H).differentiable
    assert not (H @ hesse.Hessian(lambda x: (x**3).sum(), x)).differentiable


def test_questions_take_products() -> None:
    J = hesse.Jacobian(lambda x: WIDE @ x, torch.zeros(4, dtype=DOUBLE))
    found = hesse.eigsh(J.T @ J, 2, which="LA", rng=0)
    torch.testing.assert_close(found.values, torch.linalg.svdvals(WIDE)[:2] ** 2)
    b = torch.ones(4, dtype=DOUBLE)
    solution = hesse.solve((J.T @ J).shift(0.5), b, tol=1e-12)
    assert solution.method == "cg"
    torch.testing.assert_close(
        solution.solution, torch.linalg.solve(WIDE.mT @ WIDE + 0.5 * torch.eye(4, dtype=DOUBLE), b)
    )


def test_a_product_passes_on_what_is_expected_and_what_was_decided() -> None:
    class Recorded(hesse.Operator):
        def __init__(self) -> None:
            self.shape, self.dtype, self.device, self.said = (2, 2), DOUBLE, torch.device("cpu"), []

        def matmat(self, V: Tensor) -> Tensor:
            return V

        def expect(self, products: int) -> None:
            self.said.append(products)

        def decide(self, earlier: dict[str, Any] | None = None) -> dict[str, Any]:
            self.said += [earlier] if earlier else []
            return {"way": f"that of {len(self.said)}"}

    first, second = Recorded(), Recorded()
    product = first @ (second / 2)
    product.expect(5)
    decided = product.decide()
    assert decided == {"0": {"way": "that of 1"}, "1": {"0": {"way": "that of 1"}}}
    product.decide(decided)
    assert first.said == second.said == [5, {"way": "that of 1"}]
