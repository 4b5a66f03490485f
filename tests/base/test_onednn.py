"""Products of matrices by oneDNN, under a name of PyTorch's that is private, beside double precision."""

from __future__ import annotations

import pytest
import torch

from hesse._base import onednn

needs_onednn = pytest.mark.skipif(not onednn.available, reason="this build of PyTorch has no oneDNN")


def matrix(rows: int, columns: int, transposed: bool = False, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    drawn = torch.randn(columns, rows, dtype=dtype).mT
    return drawn if transposed else drawn.contiguous()


@pytest.mark.private
def test_pytorch_still_has_the_product_under_that_name() -> None:
    assert torch.backends.mkldnn.is_available() == onednn.available


@needs_onednn
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", [(33, 70, 21), (1, 500, 7), (500, 7, 1), (1, 1, 1)], ids=str)
def test_products_are_those_in_double_precision(shape: tuple[int, int, int], transposed: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    m, k, n = shape
    a, b = matrix(m, k, transposed[0]), matrix(k, n, transposed[1])
    found = onednn.product(a, b)
    assert found.shape == (m, n)
    torch.testing.assert_close(found.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN:UserWarning")
def test_only_large_products_of_single_precision_on_a_cpu_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "fast_here", lambda: True)
    square = matrix(256, 256)
    assert onednn.outruns(square, square)
    assert onednn.outruns(matrix(1, 100_000), matrix(100_000, 100))
    for other in (square.double(), square.bfloat16(), square.to("meta")):
        assert not onednn.outruns(other, other)
    assert not onednn.outruns(matrix(8, 8), matrix(8, 8))
    # Few sums over many terms.
    assert not onednn.outruns(matrix(64, 1797), matrix(1797, 64))
    with torch.backends.mkldnn.flags(enabled=False):
        assert not onednn.outruns(square, square)


def test_nothing_gains_where_pytorchs_own_product_is_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "fast_here", lambda: False)
    square = matrix(256, 256)
    assert not onednn.outruns(square, square)


@pytest.mark.parametrize(
    ("name", "instructions", "wider"),
    [
        ("AMD EPYC 9575F", "AVX512", True),
        ("AMD EPYC 7763", "AVX2", False),
        ("Intel(R) Xeon(R) Platinum 8480C", "AVX512", False),
        ("", "DEFAULT", False),
    ],
)
def test_mkl_uses_half_the_registers_of_these_processors(
    name: str, instructions: str, wider: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "processor", lambda: name)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    assert onednn.fast_here() == wider
