"""Questions about products that round more than their vectors: where they end, and what they say of it."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesse

N_ROWS = 64


class Lower(nn.Module):
    """Computes in bfloat16 inside, with parameters of float32."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(x).float()


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 3)).to(dtype)


def data(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(N_ROWS, 12).to(dtype), torch.randint(3, (N_ROWS,))


def curvature(kind: str) -> hesse.GaussNewton:
    if kind == "autocast inside":
        return hesse.GaussNewton(Lower(network()), F.cross_entropy, data())
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    if kind == "autocast around":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return hesse.GaussNewton(network(), F.cross_entropy, data())
    return hesse.GaussNewton(network(dtype), F.cross_entropy, data(dtype))


def exact() -> torch.Tensor:
    """JᵀBJ in double precision, from the Jacobian of the predictions."""
    model, (x, _) = network(torch.float64), data(torch.float64)
    parameters = dict(model.named_parameters())

    def predict(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(parameters, values, strict=True)), (x,))

    leaves = torch.autograd.functional.jacobian(predict, tuple(parameters.values()))
    J = torch.cat([leaf.reshape(N_ROWS, 3, -1) for leaf in leaves], 2)
    p = predict(*parameters.values()).softmax(1)
    B = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    return (J.mT @ B @ J).sum(0).detach() / N_ROWS


@pytest.mark.parametrize("kind", ["bfloat16", "autocast inside", "autocast around"])
@pytest.mark.one_in(3)
def test_eigsh_ends_at_the_noise_of_products_and_says_how_large_it_is(kind: str) -> None:
    wanted = torch.linalg.eigvalsh(exact()).flip(0)[:2]
    with warnings.catch_warnings():
        warnings.simplefilter("error", hesse.ConvergenceWarning)
        found = hesse.eigsh(curvature(kind), 2, rng=0)
    assert found.converged
    assert "noise" in found.bounds
    assert found.num_products < 100
    # bfloat16 has eight bits.
    assert 1e-4 < found.noise < 3e-2
    torch.testing.assert_close(found.values, wanted, rtol=1e-2, atol=0)
    assert f"products are linear to {found.noise:.1e}" in repr(found)


@pytest.mark.parametrize("method", ["cg", "minres"])
@pytest.mark.parametrize("kind", ["bfloat16", "autocast inside"])
@pytest.mark.one_in(3)
def test_solve_ends_at_the_noise_of_products(kind: str, method: str) -> None:
    A = exact()
    b = torch.randn(len(A), generator=torch.Generator().manual_seed(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", hesse.ConvergenceWarning)
        found = hesse.solve(curvature(kind).shift(0.3), b, method=method)
    assert (found.endings, found.converged) == (("noise",), True)
    assert 1e-4 < found.noise < 3e-2
    assert "products are linear to" in repr(found)
    wanted = torch.linalg.solve(A + 0.3 * torch.eye(len(A)), b.double())
    assert float((found.solution - wanted).norm() / wanted.norm()) < 0.05


class Rounded(hesse.Operator):
    """A matrix whose products are rounded to bfloat16, of which its operator says nothing."""

    symmetric = True
    positive_semidefinite = True

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix, self.count = matrix, 0
        self.shape, self.dtype, self.device = tuple(matrix.shape), matrix.dtype, matrix.device

    def matmat(self, V: torch.Tensor) -> torch.Tensor:
        self.count += V.shape[1]
        return (self.matrix @ V).bfloat16().to(V.dtype)


def spread(n: int = 200, seed: int = 0) -> torch.Tensor:
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    A = (Q * torch.linspace(1, 3, n, dtype=torch.float64)) @ Q.mT
    return 0.5 * (A + A.mT)


def test_noise_of_an_operator_that_says_nothing_is_found_where_convergence_stalls() -> None:
    A = Rounded(spread().float())
    found = hesse.solve(A, torch.randn(200, generator=torch.Generator().manual_seed(4)))
    assert found.endings == ("noise",)
    assert found.noise > 1e-4
    assert found.num_products == A.count < 60
    A.count = 0
    pairs = hesse.eigsh(A, 1, rng=0)
    assert pairs.converged
    assert pairs.num_products == A.count < 200
    assert abs(float(pairs.values[0]) - 3) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.one_in(2)
def test_rounding_of_the_vectors_own_dtype_is_no_noise(dtype: torch.dtype) -> None:
    A = spread().to(dtype)
    with pytest.warns(hesse.ConvergenceWarning, match="rounding allows no smaller one"):
        found = hesse.solve(A, torch.ones(200, dtype=dtype), tol=1e-20)
    assert (found.endings, found.converged, found.noise) == (("precision",), False, None)
    assert hesse.eigsh(A, 2, rng=0, tol=1e-30).noise is None


def test_an_operator_evaluates_under_the_autocast_it_was_made_in() -> None:
    model, (x, y) = network(), data()
    v = torch.randn(sum(p.numel() for p in model.parameters()), generator=torch.Generator().manual_seed(3))
    outside = hesse.LossHessian(model, F.cross_entropy, (x, y))
    plain = outside @ v
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = hesse.LossHessian(model, F.cross_entropy, (x, y))
        lowered = inside @ v
        again = hesse.LossHessian(model, F.cross_entropy, (x, y))
        moved = outside.at()
        assert torch.equal(outside @ v, plain)
    # Made inside, and first multiplied outside.
    assert torch.equal(again @ v, lowered)
    # Another point is made where it is asked for.
    assert torch.equal(moved @ v, lowered)
    assert torch.equal(again.at() @ v, plain)
    assert torch.equal(again.value, inside.value)
    assert not torch.equal(lowered, plain)
    torch.testing.assert_close(lowered, plain, rtol=0.1, atol=0.02 * float(plain.norm()))
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("low", ["autocast", "matrix products"])
@pytest.mark.one_in(2)
def test_what_hesse_computes_with_products_is_not_lowered_by_what_surrounds_the_question(low: str) -> None:
    A, b = spread().float(), torch.ones(200)
    pairs, solution = hesse.eigsh(A, 2, rng=0), hesse.solve(A, b, preconditioner=hesse.nystrom(A, 5, rng=0))
    backend = torch.backends.mkldnn.matmul
    before = backend.fp32_precision
    seen = []
    try:
        if low == "matrix products":
            backend.fp32_precision = "bf16"
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low == "autocast"):

            class Watched(Rounded):
                def matmat(self, V: torch.Tensor) -> torch.Tensor:
                    seen.append((torch.is_autocast_enabled("cpu"), backend.fp32_precision))
                    with torch.autocast("cpu", enabled=False):
                        return self.matrix @ V

            same = hesse.eigsh(A, 2, rng=0)
            hesse.trace(Watched(A), rng=0)
            again = hesse.solve(A, b, preconditioner=hesse.nystrom(A, 5, rng=0))
        after = backend.fp32_precision
    finally:
        backend.fp32_precision = before
    # A user's operator is multiplied as it would be outside of a question.
    assert set(seen) == {(low == "autocast", "bf16" if low == "matrix products" else before)}
    assert after == ("bf16" if low == "matrix products" else before)
    assert same.vectors.dtype == again.solution.dtype == torch.float32
    torch.testing.assert_close(same.vectors, pairs.vectors)
    torch.testing.assert_close(again.solution, solution.solution)
    assert same.num_products == pairs.num_products
