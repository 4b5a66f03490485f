"""Inner products of long vectors in float32, beside float64's, and the answers that stand on them."""

from __future__ import annotations

import pytest
import torch

import hesse
from hesse._operators.inner_products import PIECE, inner_products

LENGTHS = [1, PIECE, 2 * PIECE - 1, 2 * PIECE, 3 * PIECE + 5, 3_000_000]


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.one_in(5)
def test_they_are_right_to_rounding_however_long(n: int, dtype: torch.dtype, by_rows: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    U, V = (torch.randn(k, n, generator=generator, dtype=dtype).mT for k in (3, 2))
    if by_rows:
        U, V = U.contiguous(), V.contiguous()
    found = inner_products(U, U)
    assert found.dtype == dtype
    exact = U.double().mT @ U.double()
    torch.testing.assert_close(found.diagonal().double(), exact.diagonal(), rtol=5e-6, atol=0)
    scale = U.double().norm(dim=0).unsqueeze(1) * V.double().norm(dim=0)
    assert float(((inner_products(U, V).double() - U.double().mT @ V.double()) / scale).abs().max()) < 1e-6


@pytest.mark.parametrize("n", LENGTHS)
def test_no_columns_have_none(n: int) -> None:
    assert inner_products(torch.zeros(n, 0), torch.zeros(n, 3)).shape == (0, 3)
    assert inner_products(torch.zeros(n, 2), torch.zeros(n, 0)).shape == (2, 0)


@pytest.mark.exhaustive
def test_eigenvectors_of_a_million_entries_are_accurate_in_float32() -> None:
    """Squared norms that are off by 6e-5 leave residuals of 1e-3 behind, however many products are made."""
    n = 2**20
    # Eight segments, each of which counts by its sum: the eigenvectors are constant on them, with no zeros.
    M = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    values = torch.tensor([50.0, 40.0, 30.0, 20.0, 10.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    M = (M * values) @ M.mT

    def quadratic(x: torch.Tensor) -> torch.Tensor:
        sums = x.unflatten(0, (8, -1)).double().sum(1) / (n / 8) ** 0.5
        return 0.5 * sums @ M @ sums

    top = hesse.eigsh(hesse.Hessian(quadratic, torch.zeros(n)), 5, tol=1e-5, rng=0)
    assert top.converged
    torch.testing.assert_close(top.values, values[:5], rtol=1e-6, atol=0)
    torch.testing.assert_close(top.vectors.double().norm(dim=0), torch.ones(5, dtype=torch.float64), rtol=1e-6, atol=0)
