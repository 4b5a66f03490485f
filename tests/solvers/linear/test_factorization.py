"""Factors of sparse matrices, against dense solutions and determinants, and as preconditioners."""

import sys
import types

import numpy as np
import pytest
import scipy.sparse
import torch

import hesse


def laplacian(side: int) -> scipy.sparse.csr_array:
    line = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(side, side), dtype=float)
    same = scipy.sparse.eye_array(side)
    return scipy.sparse.csr_array(scipy.sparse.kron(line, same) + scipy.sparse.kron(same, line))


def indefinite(n: int) -> np.ndarray:
    A = np.random.default_rng(0).normal(size=(n, n)) * (np.random.default_rng(1).random((n, n)) < 0.3)
    return A + A.T


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("matrix", [laplacian(5).toarray(), indefinite(20), np.array([[0.0, 1.0], [1.0, 0.0]])])
def test_products_are_those_of_the_inverse(matrix, dtype):
    F = hesse.factorize(torch.from_numpy(matrix).to(dtype).to_sparse())
    assert F.dtype == dtype
    expected = torch.from_numpy(np.linalg.inv(matrix)).to(dtype)
    torch.testing.assert_close(F.to_dense(), expected, rtol=1e3 * torch.finfo(dtype).eps, atol=1e-4)
    assert F.positive_semidefinite == bool(np.linalg.eigvalsh(matrix).min() > 0)


def test_scipy_matrices_are_factorized_too():
    A = laplacian(6)
    b = torch.linspace(0, 1, 36, dtype=torch.float64)
    torch.testing.assert_close(hesse.factorize(A) @ b, torch.linalg.solve(torch.from_numpy(A.toarray()), b))


def test_the_log_determinant_of_a_grid_is_that_of_its_known_eigenvalues():
    waves = 2 - 2 * np.cos(np.pi * np.arange(1, 21) / 21)
    expected = np.log(waves[:, None] + waves[None, :]).sum()
    assert hesse.factorize(laplacian(20)).logdet == pytest.approx(expected, rel=1e-13)


def test_a_hessian_preconditions_its_own_solve_and_those_nearby():
    def energy(u: torch.Tensor) -> torch.Tensor:
        return ((u[1:] - u[:-1]) ** 2).sum() + 1e-4 * (u**2).sum() + (u**4).sum() / 4

    chain = torch.stack([torch.arange(199), torch.arange(1, 200)])
    H = hesse.Hessian(energy, torch.zeros(200, dtype=torch.float64))
    F = hesse.factorize(H.to_sparse(chain))
    b = torch.ones(200, dtype=torch.float64)
    solved = hesse.solve(H, b, preconditioner=F, tol=1e-10)
    assert solved.converged
    assert int(solved.num_iterations) <= 2
    near = H.at(0.01 * torch.ones(200, dtype=torch.float64))
    solved = hesse.solve(near, b, preconditioner=F, tol=1e-10)
    assert solved.converged
    torch.testing.assert_close(solved.solution, torch.linalg.solve(near.to_dense(), b), rtol=1e-6, atol=0.0)


def test_the_log_determinant_of_an_indefinite_matrix_is_refused():
    with pytest.raises(ValueError, match="positive definite matrix but this one is not"):
        _ = hesse.factorize(scipy.sparse.diags_array([1.0, -1.0])).logdet


@pytest.mark.parametrize(
    ("matrix", "error", "sentence"),
    [
        (torch.eye(2), TypeError, "sparse tensor or a SciPy sparse matrix"),
        (scipy.sparse.csr_array(np.ones((2, 3))), ValueError, r"shape \(2, 3\)"),
        (scipy.sparse.csr_array(np.triu(np.ones((2, 2)))), ValueError, "symmetric, but this one"),
        (scipy.sparse.csr_array(np.full((2, 2), np.nan)), ValueError, "finite and symmetric"),
        (scipy.sparse.csr_array(np.ones((2, 2))), ValueError, "singular. Add a shift"),
        (scipy.sparse.csr_array((2, 2)), ValueError, "singular. Add a shift"),
        (scipy.sparse.csr_array(1j * np.eye(2)), ValueError, "real"),
    ],
)
def test_what_cannot_be_factorized_is_refused(matrix, error, sentence):
    with pytest.raises(error, match=sentence):
        hesse.factorize(matrix)


def of_rank(rank: int, signs: np.ndarray) -> np.ndarray:
    B = np.random.default_rng(len(signs)).standard_normal((len(signs), rank))
    A = B * signs[:rank] @ B.T
    return 0.5 * (A + A.T)


def cycle(n: int) -> np.ndarray:
    """The Laplacian of a cycle, whose last pivot is zero but for the rounding of fractions."""
    line = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    line[0, -1] = line[-1, 0] = -1
    return line


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "matrix",
    [
        *(cycle(n) for n in (5, 7, 50)),
        *(of_rank(rank, np.ones(20)) for rank in (10, 19)),
        *(of_rank(rank, np.resize([1.0, -1.0], 20)) for rank in (10, 19)),
        np.diag(10.0 ** -np.arange(12)) @ cycle(12) @ np.diag(10.0 ** -np.arange(12)),
    ],
)
def test_a_matrix_that_is_singular_but_for_rounding_is_refused(matrix, dtype):
    # The determinant of the first was e⁻³⁴, and it was said to be positive definite.
    with pytest.raises(ValueError, match=r"singular\. Add a shift"):
        hesse.factorize(scipy.sparse.csr_array(matrix.astype(dtype)))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scales_that_differ_make_no_matrix_singular(sign):
    scales = np.diag(10.0 ** -np.arange(0.0, 60, 5))
    matrix = cycle(12) + np.diag(np.r_[sign, np.ones(11)])
    F = hesse.factorize(scipy.sparse.csr_array(scales @ matrix @ scales))
    expected = np.linalg.inv(matrix)
    found = scales @ (F.to_dense().numpy() @ scales)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    if sign > 0:
        assert F.logdet == pytest.approx(np.linalg.slogdet(matrix)[1] + 2 * np.log(np.diag(scales)).sum(), rel=1e-12)


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_sparse_tensors_are_operators(layout):
    dense = torch.tensor([[2.0, 1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 4.0]])
    A = hesse.as_operator(dense.to_sparse(layout=layout))
    assert A.symmetric
    torch.testing.assert_close(A @ torch.eye(3), dense)
    torch.testing.assert_close(A.to_dense(), dense)
    tall = torch.tensor([[2.0, 1.0], [0.0, 3.0], [0.0, 5.0]])
    B = hesse.as_operator(tall.to_sparse(layout=layout))
    assert not B.symmetric
    torch.testing.assert_close(B @ torch.eye(2), tall)
    torch.testing.assert_close(B.T @ torch.eye(3), tall.T)
    assert hesse.eigsh(A, k=1, rng=0).values.item() == pytest.approx(4.0, rel=1e-5)


def test_a_sparse_tensor_that_nothing_can_be_multiplied_by_is_refused():
    with pytest.raises(ValueError, match="real floating-point tensor of two dimensions"):
        hesse.as_operator(torch.eye(3, dtype=torch.int64).to_sparse())
    with pytest.raises(ValueError, match="requires_grad is True"):
        hesse.as_operator(torch.eye(3).to_sparse().requires_grad_())


def test_scipy_gets_sparse_tensors_of_any_layout():
    dense = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(hesse.to_scipy(dense.to_sparse()).toarray(), dense.numpy())
    with pytest.raises(TypeError, match="sparse tensor of two dimensions"):
        hesse.to_scipy(dense)


def test_the_factors_of_an_operator_are_those_of_its_sparse_matrix():
    H = hesse.Hessian(lambda x: (x[1:] * x[:-1]).sum() + (x**4).sum(), torch.ones(30, dtype=torch.float64))
    F = hesse.factorize(H)
    assert F.logdet == pytest.approx(float(torch.logdet(H.to_dense())), rel=1e-13)
    torch.testing.assert_close(F.to_dense(), torch.linalg.inv(H.to_dense()))
    with pytest.raises(TypeError, match=r"^factorize\(\) finds no pattern of a Dense\. Give pattern="):
        hesse.factorize(hesse.as_operator(torch.eye(3)))


def test_cholmod_makes_the_factors_of_positive_definite_matrices():
    pytest.importorskip("sksparse.cholmod", reason="scikit-sparse has no wheels, so only some have it installed")
    A, b = laplacian(6), torch.linspace(0, 1, 36, dtype=torch.float64)
    F = hesse.factorize(A)
    assert F.library == "CHOLMOD"
    torch.testing.assert_close(F @ b, torch.linalg.solve(torch.from_numpy(A.toarray()), b))
    assert F.logdet == pytest.approx(np.linalg.slogdet(A.toarray())[1], rel=1e-13)
    assert hesse.factorize(scipy.sparse.csc_array(indefinite(20))).library == "SuperLU"


@pytest.mark.parametrize("shift", [0.0, -2.0])
def test_a_factor_that_shows_no_positive_definite_matrix_is_not_taken(shift, monkeypatch):
    class Factor:
        """As CHOLMOD's, by dense loops: without blocks it factorizes indefinite matrices too."""

        def __init__(self, A):
            lower, self._A = A.toarray(), A.toarray()
            for k in range(len(lower)):
                lower[k + 1 :, k + 1 :] -= np.outer(lower[k + 1 :, k], lower[k, k + 1 :]) / lower[k, k]
            self._pivots = lower.diagonal()

        def D(self):  # its name
            return self._pivots

        def P(self):  # its name
            return np.arange(len(self._A))

        def __call__(self, b):
            return np.linalg.solve(self._A, b)

    errors = dict.fromkeys(["CholmodNotPositiveDefiniteError", "CholmodOutOfMemoryError", "CholmodTooLargeError"])
    library = types.SimpleNamespace(cholesky=Factor, **{name: type(name, (Exception,), {}) for name in errors})
    monkeypatch.setitem(sys.modules, "sksparse", types.SimpleNamespace(cholmod=library))
    monkeypatch.setitem(sys.modules, "sksparse.cholmod", library)
    A = laplacian(4) + shift * scipy.sparse.eye_array(16)
    F = hesse.factorize(A)
    lowest = float(np.linalg.eigvalsh(A.toarray())[0])
    assert (F.library, F.positive_semidefinite) == (("CHOLMOD", True) if lowest > 0 else ("SuperLU", False))
    torch.testing.assert_close(F.to_dense(), torch.from_numpy(np.linalg.inv(A.toarray())))
