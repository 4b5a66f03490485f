"""What a sparse matrix takes of its point, and leaves as it was: groups of products, buffers, indices, modes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hesse

from .test_to_sparse import band, dense, random, rosenbrock


@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_products_are_read_in_several_groups_where_memory_is_short(batching, monkeypatch):
    from hesse._sparse.plan import SparsePlan

    read = []

    def counted(self, products, *rest, original=SparsePlan.read):
        read.append(len(products) // self.length)
        return original(self, products, *rest)

    monkeypatch.setattr(SparsePlan, "read", counted)
    x = random(400)
    for room, groups in ((4 * 6400 * 13, {13, 2}), (4 * 6400 * 20, {16, 9}), (2**30, {41})):
        H = hesse.Hessian(lambda x: (x[20:] * x[:-20] * x[10:-10]).sum(), x, batching=batching)
        monkeypatch.setattr(H, "_room", lambda room=room: room)
        read.clear()
        torch.testing.assert_close(H.to_sparse(band(400, 20)).to_dense(), dense(H._func, x))
        assert H.explain().colors == sum(read) == 41
        assert set(read) == groups


@pytest.mark.parametrize(("roundings", "is_quick"), [(120, True), (180, False)])
def test_what_rounding_allows_is_seen_in_the_pass_that_reads(roundings, is_quick, monkeypatch):
    from hesse._operators import sparse

    asked = []
    monkeypatch.setattr(sparse, "difference", lambda *a: asked.append(a))
    H = hesse.Hessian(lambda x: (x**3).sum(), torch.ones(10, dtype=torch.float64))
    error = roundings * 6 * torch.finfo(torch.float64).eps

    def noisy(v: Tensor, *rest, multiply=H._matvec) -> Tensor:
        is_random = bool((v % 1 != 0).any())
        return multiply(v, *rest) + error * is_random * (torch.arange(10) == 7)

    monkeypatch.setattr(H, "_matvec", noisy)
    H.to_sparse()
    assert len(asked) == (0 if is_quick else 1)


def test_no_variables_have_an_empty_matrix():
    assert hesse.sparse_hessian(lambda x: (x**2).sum(), torch.zeros(0)).shape == (0, 0)
    assert hesse.Jacobian(lambda x: x[:0], random(3)).to_sparse().shape == (0, 3)
    assert hesse.Jacobian(lambda x: x.sum() + torch.ones(3), torch.zeros(0)).to_sparse().shape == (3, 0)


def test_a_pattern_is_found_under_inference_mode():
    with torch.inference_mode():
        x, weights = random(9), torch.ones(9, dtype=torch.float64)
        found = hesse.sparse_hessian(lambda x: rosenbrock(weights * x), x)
        assert found.values().numel() == 25
        values = found.to_dense().tolist()
    torch.testing.assert_close(torch.tensor(values, dtype=torch.float64), dense(rosenbrock, random(9)))


def test_zeros_that_scipy_drops_are_places_at_the_next_point():
    x = torch.zeros(6, dtype=torch.float64)
    H = hesse.Hessian(rosenbrock, x)
    matrix = hesse.to_scipy(H.to_sparse(band(6)))
    matrix.eliminate_zeros()
    assert matrix.nnz < band(6).nnz
    torch.testing.assert_close(H.at(x + 0.5).to_sparse().to_dense(), dense(rosenbrock, x + 0.5))


@pytest.mark.private
def test_a_function_that_writes_into_buffers_keeps_its_point():
    norm, calls = torch.nn.BatchNorm1d(2, dtype=torch.float64), torch.zeros(3)

    def func(x: Tensor) -> Tensor:
        calls.add_(1)
        return norm(x).pow(3).sum()

    x = torch.rand(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    H = hesse.Hessian(func, x, engine="tape")
    mean = norm.running_mean.clone()
    found = H.to_sparse()
    assert (int(calls[0]), int(norm.num_batches_tracked)) == (1, 1)
    assert torch.equal(norm.running_mean, mean)
    expected = torch.func.hessian(lambda x: torch.nn.functional.batch_norm(x, None, None, training=True).pow(3).sum())(
        x
    )
    torch.testing.assert_close(found.to_dense(), expected.reshape(8, 8))
    assert found.values().numel() == 32
    calls.add_(1)
    with pytest.raises(hesse.StalePointError, match="calls"):
        H.to_sparse()
