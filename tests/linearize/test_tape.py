"""The tape keeps one evaluation, and can say how much memory that is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import hesse
from hesse._linearize.guard import Guard


def kept(func, x: Tensor) -> int:
    return hesse.Hessian(func, x).explain().bytes_kept


@pytest.mark.private
def test_bytes_kept_count_each_storage_once() -> None:
    x = torch.ones(1000)
    # x itself, x² and what the derivative of the square keeps: a few vectors, each of 4000 bytes.
    assert 4000 <= kept(lambda x: (x**3).sum(), x) <= 6 * 4000
    assert kept(lambda x: (3 * x).sum(), x) < 4000
    deep = kept(lambda x: x.sin().cos().sin().cos().sum(), x)
    shallow = kept(lambda x: x.sin().sum(), x)
    assert deep > shallow > 0


@pytest.mark.private
def test_bytes_kept_do_not_recompute_a_checkpoint() -> None:
    calls = []

    def block(x: Tensor) -> Tensor:
        calls.append(1)
        return x.sin().exp()

    H = hesse.Hessian(lambda x: checkpoint(block, x, use_reentrant=False).sum(), torch.ones(10))
    count = len(calls)
    assert H.explain().bytes_kept >= 0
    assert len(calls) == count


def test_products_through_a_checkpoint_are_exact() -> None:
    x = torch.linspace(0, 1, 5, dtype=torch.float64)
    H = hesse.Hessian(lambda x: checkpoint(lambda x: (x.sin() * x).exp(), x, use_reentrant=False).prod(), x)
    dense = torch.func.hessian(lambda x: (x.sin() * x).exp().prod())(x)
    torch.testing.assert_close(H.to_dense(), dense)
    torch.testing.assert_close(H @ x, dense @ x)


def test_explain_reads_as_labelled_lines_with_units() -> None:
    H = hesse.Hessian(lambda x: (x**3).sum(), torch.ones(4), memory="1MiB")
    assert str(H.explain()).split("\n") == [
        "engine:       tape (few products so far)",
        f"kept:         {H.explain().bytes_kept} bytes",
        "many vectors: undecided in chunks of 1 (no trial yet)",
        "memory:       1 MiB allowed; a vector not measured yet",
    ]
    H @ torch.eye(4).repeat(1, 16)
    assert H.explain().batching in ("loop", "vmap")
    assert " ms in a batch of 4, " in H.explain().batching_reason
    assert "bytes a vector at the peak" in str(H.explain())


def test_memory_that_a_guard_reads_is_not_given_to_another_tensor() -> None:
    x = torch.zeros(1000)
    guard = Guard("test", [("x", x)])
    where = x.data_ptr()
    x.data = torch.empty(0)
    others = [torch.zeros(1000) for _ in range(4)]
    assert where not in [other.data_ptr() for other in others]
    x.data = others[0]
    with pytest.raises(hesse.StalePointError, match="x has changed in place"):
        guard.check()
