"""What people write with an operator, in NumPy's, SciPy's and PyTorch's words: each works, or is one sentence."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

import hesse

DOUBLE = torch.float64
X = torch.tensor([1.0, -2.0, 3.0], dtype=DOUBLE)
WIDE = torch.randn(2, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
# Of (x**4).sum() / 12.
DENSE = torch.diag(X**2)


def hessian() -> hesse.Hessian:
    return hesse.Hessian(lambda x: (x**4).sum() / 12, X)


def jacobian() -> hesse.Jacobian:
    return hesse.Jacobian(lambda x: WIDE @ x, X)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, ">f8", np.longdouble])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 0)])
def test_numpy_arrays_give_numpy_arrays(shape: tuple[int, ...], dtype: Any) -> None:
    v = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    v.flags.writeable = False
    plain = v.astype(np.float64)
    for A, dense in [(hessian(), DENSE.numpy()), (jacobian(), WIDE.numpy()), (hesse.as_operator(WIDE), WIDE.numpy())]:
        product = A @ v
        assert type(product) is np.ndarray
        assert product.dtype == np.float64
        np.testing.assert_allclose(product, dense @ plain)


def test_numpy_arrays_multiply_from_the_left() -> None:
    J = jacobian()
    u, rows = np.array([1.0, -2.0]), np.arange(8.0).reshape(4, 2)
    np.testing.assert_allclose(u @ J, u @ WIDE.numpy())
    np.testing.assert_allclose(rows @ J, rows @ WIDE.numpy())
    np.testing.assert_allclose(np.eye(3) @ hessian(), DENSE.numpy())
    for factor in (np.float64(2), np.float32(2), np.int64(2), np.array(2.0)):
        torch.testing.assert_close((factor * J).to_dense(), 2 * WIDE)


def test_structured_numpy_products_are_numpy_too() -> None:
    matrix = torch.arange(6, dtype=DOUBLE).reshape(2, 3)
    H = hesse.Hessian(lambda x: (x**4).sum() / 12, matrix)
    v = np.ones((2, 3))
    np.testing.assert_allclose(H @ v, matrix.numpy() ** 2)
    np.testing.assert_allclose(H @ v.reshape(-1), matrix.numpy().reshape(-1) ** 2)
    J = hesse.Jacobian(lambda x: {"sum": x.sum(), "square": x**2}, X)
    product = J @ np.ones(3)
    np.testing.assert_allclose(product["square"], 2 * X.numpy())
    np.testing.assert_allclose(product["sum"], 3.0)


def test_the_names_of_scipy_and_pytorch() -> None:
    H, J = hessian(), jacobian()
    v, u = torch.ones(3, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)
    torch.testing.assert_close(J.matvec(v), WIDE @ v)
    torch.testing.assert_close(J.matvec(v.unsqueeze(-1)), WIDE @ v.unsqueeze(-1))
    torch.testing.assert_close(J.rmatvec(u), WIDE.mT @ u)
    np.testing.assert_allclose(J.rmatvec(u.numpy()), (WIDE.mT @ u).numpy())
    torch.testing.assert_close(J.mT @ u, WIDE.mT @ u)
    torch.testing.assert_close((H / 2) @ v, DENSE @ v / 2)
    torch.testing.assert_close((H / torch.tensor(4.0)).to_dense(), DENSE / 4)
    assert H.mT is H
    assert H.ndim == J.T.ndim == 2


REFUSED: dict[str, tuple[Callable[[hesse.Operator], Any], str]] = {
    "a sparse matrix": (lambda H: H @ scipy.sparse.eye_array(3), "but the given v has type <class 'scipy"),
    "a sparse matrix from the left": (lambda H: scipy.sparse.eye_array(3) @ H, "is not an array"),
    "a list from the left": (lambda H: [1.0, 2.0, 3.0] @ H, r"takes a vector of shape \(3,\) or rows \(k, 3\)"),
    "a number from the left": (lambda H: 3 @ H, r"takes a vector of shape \(3,\)"),
    "an array of three dimensions": (lambda H: np.ones((3, 3, 3)) @ H, r"but got shape \(3, 3, 3\)"),
    "strings": (lambda H: H @ np.array(["a"] * 3), "should hold numbers but has dtype"),
    "complex": (lambda H: H @ np.ones(3, dtype=complex), "The operator is real"),
    "a star between operators": (lambda H: H * H, r"Hessian \* <class .*> is not defined. Use @"),
    "a star and a vector": (lambda H: H * torch.ones(3), "Use @ for a product"),
    "a vector and a star": (lambda H: torch.ones(3) * H, "Use @ for a product"),
    "an array and a star": (lambda H: np.ones(3) * H, "Use @ for a product"),
    "an array added": (lambda H: np.eye(3) + H, r"is not defined\. Wrap a matrix with hesse\.as_operator"),
    "a number of NumPy's": (lambda H: H - np.array(2.0), r"use H\.shift\(-2\.0\)"),
    "asarray": (np.asarray, r"use to_dense\(\)|Use to_dense\(\)"),
    "eigh": (np.linalg.eigh, r"Use to_dense\(\)"),
    "a shift by a word": (lambda H: H.shift("1"), "should be a real number but is '1'"),  # type: ignore[arg-type]  # the wrong type is the point
    "a shift with history": (lambda H: H.shift(torch.ones((), requires_grad=True)), "no derivative goes through it"),  # type: ignore[arg-type]  # the wrong type is the point
    "a factor with history": (lambda H: torch.ones((), requires_grad=True) * H, "no derivative goes through it"),
    "an imaginary factor": (lambda H: 1j * H, "unsupported operand"),
    "deepcopy": (copy.deepcopy, "A Hessian can be neither pickled nor copied deeply"),
    "deepcopy of a sum": (lambda H: copy.deepcopy([H.shift(1.0)]), "A Sum can be neither pickled nor copied deeply"),
    "pickle": (pickle.dumps, "A Hessian can be neither pickled nor copied deeply"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_work_is_one_sentence(case: str) -> None:
    attempt, sentence = REFUSED[case]
    with pytest.raises(TypeError, match=sentence):
        attempt(hessian())


def test_a_shallow_copy_multiplies() -> None:
    torch.testing.assert_close(copy.copy(hessian()) @ X, DENSE @ X)


def test_an_operator_shows_what_it_is_made_of_and_by_which_engine() -> None:
    H, J, L = hessian(), jacobian(), hesse.as_operator(torch.eye(2, dtype=DOUBLE))
    assert repr(H) == "Hessian(shape=(3, 3), dtype=torch.float64, device=cpu, engine=tape)"
    for operator, formula in [
        (H.shift(1e-3), "Sum(Hessian[tape] + 0.001 * Identity,"),
        (-H - 2 * H, "Sum(-Hessian[tape] - 2 * Hessian[tape],"),
        (J.T, "Transpose(Jacobian[tape].T,"),
        (J.T @ L.shift(1.0) @ J, "Product(Jacobian[tape].T @ (Dense + Identity) @ Jacobian[tape],"),
        ((J + J).T, "Transpose((Jacobian[tape] + Jacobian[tape]).T,"),
    ]:
        assert repr(operator).startswith(formula)
        assert repr(operator).endswith(f" shape={operator.shape}, dtype=torch.float64, device=cpu)")
    H.close()
    assert "engine=tape" in repr(H)


def test_an_operator_over_data_shows_its_engine() -> None:
    H = hesse.LossHessian(torch.nn.Linear(2, 1), torch.nn.MSELoss(), (torch.ones(3, 2), torch.ones(3, 1)))
    assert "engine=tape" in repr(H)
    assert repr(H.block("weight").shift(1.0)).startswith("Sum(Block[tape] + Identity")


class Scaling(hesse.Operator):
    """Twice the identity."""

    symmetric = True

    def __init__(self, n: int, dtype: torch.dtype = torch.float32) -> None:
        self.shape, self.dtype, self.device = (n, n), dtype, torch.device("cpu")

    def matmat(self, V: Tensor) -> Tensor:
        return 2 * V

    def _matvec(self, v: Tensor) -> Tensor:
        return 2 * v


def test_a_flat_vector_passes_no_other_function_of_python() -> None:
    A, v = Scaling(4), torch.ones(4)
    A @ v
    called = []

    def record(frame: Any, event: str, argument: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    sys.setprofile(record)
    try:
        A @ v
    finally:
        sys.setprofile(None)
    assert called == ["__matmul__", "_matvec"]


def test_a_flat_vector_that_looks_like_the_input_has_the_structure_of_the_output() -> None:
    def dictionary(x: Tensor) -> dict[str, Tensor]:
        return {"square": x**2, "sum": x.sum()}

    J = hesse.Jacobian(dictionary, X)
    for _ in range(2):
        product = J @ torch.ones(3, dtype=DOUBLE)
        torch.testing.assert_close(product, {"square": 2 * X, "sum": torch.tensor(3.0, dtype=DOUBLE)})
    # In single precision inside: the output keeps its dtype.
    assert (hesse.Jacobian(lambda x: x.float(), X) @ torch.ones(3, dtype=DOUBLE)).dtype == torch.float32
    assert (hesse.Jacobian(lambda x: x.double(), X.float()) @ torch.ones(3, dtype=DOUBLE)).dtype == DOUBLE
    outer = hesse.Jacobian(lambda x: torch.outer(x, x), X) @ torch.ones(3, dtype=DOUBLE)
    torch.testing.assert_close(outer, X.unsqueeze(0) + X.unsqueeze(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64, DOUBLE])
def test_vectors_of_another_dtype_are_cast(dtype: torch.dtype) -> None:
    product = Scaling(4) @ torch.ones(4, dtype=dtype)
    torch.testing.assert_close(product, torch.full((4,), 2.0))


def test_totals_and_whole_vectors_of_one_process_are_refused_where_they_are_none():
    A = hesse.as_operator(torch.ones(2, 3))
    v = A @ torch.ones(3)
    assert A.whole(v) is v
    with pytest.raises(ValueError, match=r"given to whole\(\) should have shape \(3,\) but has \(4,\)"):
        A.whole(torch.ones(4))
    with pytest.raises(ValueError, match=r"reduce given to total"):
        A.total(torch.ones(1), reduce="mean")
