"""Products of the matrices of a block, and the long sequences that use oneDNN's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import hesse
from hesse._base import onednn
from hesse._rules.attention import products

from .attention import attention
from .judge import vectors_like


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-14)])
@pytest.mark.parametrize("heads", [1, 3])
def test_products_are_those_of_the_matrices(heads: int, dtype: torch.dtype, tolerance: float, transposed: bool) -> None:
    torch.manual_seed(0)
    a, b, c = [torch.randn(heads, *shape, dtype=dtype) for shape in ((33, 70), (70, 21), (33, 21))]
    expected = torch.einsum("hmk,hkn->hmn", a.double(), b.double())
    if transposed:
        a, b = a.mT.contiguous().mT, b.mT.contiguous().mT
    for column in (c, c[..., :1]):
        torch.testing.assert_close(
            products.added_product(column, a, b).double(),
            column.double() + expected,
            rtol=tolerance,
            atol=10 * tolerance,
        )
    torch.testing.assert_close(products.product(a, b).double(), expected, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("length", [1024, 1333])
@pytest.mark.parametrize("values", ["kernel", "blocks"])
@pytest.mark.one_in(8)
def test_long_sequences_agree_with_attention_in_plain_operations_in_double_precision(
    values: str, length: int, is_causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "fast_here", lambda: True)
    monkeypatch.setattr(products, "_LEAST_KEYS_FOR_VALUES", 1024 if values == "blocks" else 2048)
    torch.manual_seed(0)
    x = (torch.randn(1, 4, length, 8), torch.randn(1, 2, 1100, 8), torch.randn(1, 2, 1100, 8))
    v = vectors_like(x)
    assert products.prefers_single_matrices(x[1])
    assert products.outruns_kernels(x[1]) == (values == "blocks")

    def fused(*x: Tensor) -> Tensor:
        return (F.scaled_dot_product_attention(*x, is_causal=is_causal, enable_gqa=True) ** 2).sum()

    double = [tuple([entry.double() for entry in entries]) for entries in (x, v)]
    plain = lambda *x: (attention(*x, is_causal=is_causal) ** 2).sum()  # noqa: E731  # a function in one line
    expected = torch.autograd.functional.vhp(plain, *double)[1]
    for product in (hesse.vhp, hesse.hvp):
        for entry, right in zip(product(fused, x, v)[1], expected, strict=True):
            assert (entry.double() - right).norm() <= 1e-5 * right.norm()


@pytest.mark.parametrize("kind", ["plain", "causal", "masked"])
@pytest.mark.one_in(3)
def test_gradients_in_blocks_are_those_of_attention_in_double_precision(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "fast_here", lambda: True)
    monkeypatch.setattr(products, "_LEAST_KEYS_FOR_VALUES", 1024)
    torch.manual_seed(0)
    x = (torch.randn(2, 4, 1100, 8), torch.randn(2, 2, 1100, 8), torch.randn(2, 2, 1100, 8))
    mask = torch.rand(1, 1, 1100, 1100) > 0.3 if kind == "masked" else None
    is_causal = kind == "causal"
    cotangent = torch.randn(2, 4, 1100, 8)
    fused = lambda *x: F.scaled_dot_product_attention(*x, mask, is_causal=is_causal, enable_gqa=True)  # noqa: E731  # a function in one line
    found = hesse.functional.vjp(fused, x, cotangent)[1]
    plain = lambda *x: attention(*x, mask, is_causal=is_causal)  # noqa: E731  # a function in one line
    expected = torch.autograd.functional.vjp(plain, tuple([entry.double() for entry in x]), cotangent.double())[1]
    for entry, right in zip(found, expected, strict=True):
        assert (entry.double() - right).norm() <= 1e-5 * right.norm()


def test_kernels_keep_their_values_where_onednn_is_not_the_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "fast_here", lambda: False)
    assert not products.outruns_kernels(torch.empty(1, 1, 4096, 8))
