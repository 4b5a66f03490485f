"""Checkpoints of operators whose products are not the same to the bit, as where an accelerator adds in any order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import hesse
from hesse._solvers.checkpoint_file import digest
from tests.device.entries import numbers

N = 40


class Unordered(hesse.Operator):
    """A matrix whose products differ in their last digits each time."""

    shape = (N, N)
    symmetric = True

    def __init__(self, matrix: Tensor, seed: int = 0, noise: float = 4) -> None:
        self.matrix, self.dtype, self.device = matrix, matrix.dtype, matrix.device
        self._noise = noise * torch.finfo(matrix.dtype).eps
        self._generator = torch.Generator(matrix.device).manual_seed(seed)

    def matmat(self, V: Tensor) -> Tensor:
        product = self.matrix @ V
        signs = torch.rand(product.shape, dtype=product.dtype, device=self.device, generator=self._generator) - 0.5
        return product * (1 + self._noise * signs)


@pytest.fixture
def matrix() -> Tensor:
    """A symmetric matrix on a device."""
    square = numbers(N, N)
    return ((square + square.mT) / N**0.5).to("cuda")


def _stopped(A: hesse.Operator, path: Path, preconditioner: hesse.Operator | None = None) -> None:
    _go_on(A, path, preconditioner, stop=5)
    assert path.exists()


def _go_on(
    A: hesse.Operator, path: Path, preconditioner: hesse.Operator | None = None, stop: int = 10**6
) -> hesse.Solution:
    return hesse.solve(
        A,
        numbers(N, seed=1).to("cuda", A.dtype),
        method="cg",
        tol=1e-4,
        preconditioner=preconditioner,
        checkpoint=hesse.Checkpoint(path, seconds=0),
        callback=lambda progress: progress.num_products >= stop,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_question_goes_on_where_products_differ_by_rounding(
    matrix: Tensor, tmp_path: Path, dtype: torch.dtype
) -> None:
    matrix = (matrix + 6 * torch.eye(N, device="cuda")).to(dtype)
    M = hesse.as_operator(torch.eye(N, device="cuda", dtype=dtype), symmetric=True)
    _stopped(Unordered(matrix), tmp_path / "kept", M)
    found = _go_on(Unordered(matrix, seed=1), tmp_path / "kept", M)
    assert found.converged
    exact = torch.linalg.solve(matrix.cpu().double(), numbers(N, seed=1).to(dtype).double())
    torch.testing.assert_close(found.solution.cpu().double(), exact, rtol=1e-3, atol=1e-3)


def test_another_point_is_refused(matrix: Tensor, tmp_path: Path) -> None:
    matrix = matrix + 6 * torch.eye(N, device="cuda")
    _stopped(Unordered(matrix), tmp_path / "kept")
    moved = matrix.clone()
    moved[3, 3] += 0.02
    for A in (Unordered(moved), Unordered(matrix * 1.0001), Unordered(matrix.double())):
        with pytest.raises(hesse.CheckpointError):
            _go_on(A, tmp_path / "kept")


def test_another_preconditioner_is_refused(matrix: Tensor, tmp_path: Path) -> None:
    A = Unordered(matrix + 6 * torch.eye(N, device="cuda"))
    eye = torch.eye(N, device="cuda")
    _stopped(A, tmp_path / "kept", Unordered(eye))
    with pytest.raises(hesse.CheckpointError, match="preconditioner"):
        _go_on(A, tmp_path / "kept", Unordered(1.01 * eye))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64, torch.bool])
def test_tensors_of_every_dtype_are_digested(dtype: torch.dtype) -> None:
    ones = torch.ones(5, device="cuda").to(dtype)
    zeros = torch.zeros(5, device="cuda").to(dtype)
    assert digest(ones) == digest(ones.cpu()) != digest(zeros)
