"""Checks that ranks run: every question about an operator whose vectors are cut up among them, against one process."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import hesse
from hesse._ranks.shards import Shards
from tests.distributed.rows_of_ranks import RowsOfRanks, matrix, ranges
from tests.distributed.sharded_commands import shared_folder
from tests.distributed.shared_products import LOSS, X, Y, dense, mine, network

A = matrix()
N = len(A)
B = torch.randn(N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
# With few steps to a solution, rounding does not change their number.
MILD = matrix(low=20.0)
TOP = torch.linalg.eigh(MILD)[1][:, -1:]
INDEFINITE = MILD - 150 * (TOP @ TOP.mT)


def close(found: Any, expected: Any, tolerance: float = 1e-9) -> None:
    found, expected = [torch.as_tensor(value, dtype=torch.float64) for value in (found, expected)]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def require_same_bits(*values: Any) -> None:
    """Of numbers that every rank has."""
    mine = [torch.as_tensor(value, dtype=torch.float64).flatten().tolist() for value in values]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    assert all(one == found[0] for one in found)


def refused(kind: type[Exception], part: str, compute: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=re.escape(part)):
        compute()


def both(question: Callable[[Any, Callable[[Tensor], Tensor]], Any], matrix: Tensor = A) -> tuple[Any, Any]:
    """The answers on ranks and of one process; each is given its operator and what takes its part of a vector."""
    H = RowsOfRanks(matrix)
    return question(H, H.part), question(hesse.as_operator(matrix), lambda v: v)


def eigenvalues() -> None:
    require_eigenvalues({"k": 3})


def eigenvalues_by_options() -> None:
    for options in (
        {"k": (2, 2), "which": "BE", "basis_size": 14, "max_products": 60},
        {"k": 3, "block_size": 3, "certify": True, "basis_device": "cpu"},
        {"k": 2, "basis_size": 8, "tol": 1e-9},
    ):
        require_eigenvalues(options)
    H, expected = RowsOfRanks(A), torch.linalg.eigvalsh(A).flip(0)
    close(hesse.eigsh(H, 2, tol=1e-9).values, expected[:2])
    for start in (lambda part: part(B), lambda part: part(B[:, 0])):
        found, alone = both(lambda H, part: hesse.eigsh(H, 2, rng=0, start=start(part)))  # noqa: B023  # called at once
        close(found.values, alone.values)
        assert found.num_products == alone.num_products
    close(hesse.eigsh(H, 2, rng=0, start=found).values, expected[:2], 1e-6)


def require_eigenvalues(options: dict[str, Any]) -> None:
    found, alone = both(lambda H, _: hesse.eigsh(H, rng=0, **options))
    close(found.values, alone.values)
    assert (found.num_products, found.num_looking, found.bounds) == (
        alone.num_products,
        alone.num_looking,
        alone.bounds,
    )
    H = RowsOfRanks(A)
    assert found.vectors.shape == (H.length, len(found.values))
    close((H.whole(found.vectors).mT @ alone.vectors).abs(), torch.eye(len(found.values)), 1e-5)
    require_same_bits(found.values, found.residuals)


def traces() -> None:
    for method in ("auto", "hutchinson", "hutch++", "xtrace", "exact"):
        found, alone = both(lambda H, _: hesse.trace(H, method=method, tol=0.02, rng=0, max_products=150))  # noqa: B023  # called at once
        close([found.estimate, found.standard_error], [alone.estimate, alone.standard_error])
        assert (found.num_products, found.method) == (alone.num_products, alone.method)
        require_same_bits(found.estimate, found.error_estimate)
    close(found.estimate, A.trace())
    found, alone = both(lambda H, _: hesse.frobenius_norm(H, rng=0))
    close([found.estimate, *found.interval], [alone.estimate, *alone.interval])
    assert found.num_products == alone.num_products
    assert abs(found.estimate - float(A.norm())) <= 0.1 * float(A.norm())


def diagonals() -> None:
    H = RowsOfRanks(A)
    for method in ("auto", "hutchinson", "xdiag", "exact"):
        found, alone = both(lambda H, _: hesse.diagonal(H, method=method, tol=0.1, rng=0, max_products=600))  # noqa: B023  # called at once
        close(H.whole(found.estimate), alone.estimate)
        close(H.whole(found.errors), alone.errors)
        assert (found.num_products, found.method) == (alone.num_products, alone.method)
        require_same_bits(found.error_estimate)
        assert f"{H.length} entries of {N} on this rank" in repr(found)
    close(H.whole(found.estimate), A.diagonal())


def functions_of_the_matrix() -> None:
    for options in ({"num_probes": 3, "num_steps": 8}, {"num_probes": 4, "num_steps": 30}):
        found, alone = both(lambda H, _: hesse.spectral_density(H, rng=0, **options))  # noqa: B023  # called at once
        assert (found.num_products, found.exact) == (alone.num_products, alone.exact)
        for power in (1, 2):
            close(found.moment(power)[0], alone.moment(power)[0])
    close(found.moment(1)[0], A.trace() / N)
    small = matrix(97)
    exact = hesse.trace_of(torch.sqrt, RowsOfRanks(small), rng=0, tol=1e-9)
    close(exact.estimate, torch.linalg.eigvalsh(small).sqrt().sum())


def determinants() -> None:
    # With a basis of each probe, and without.
    for options in ({"max_products": 60}, {"memory": 8 * N * 7}):
        found, alone = both(
            lambda H, _: hesse.logdet(H, rng=0, **{"tol": 0.2, "num_steps": 6, "max_products": 30, **options}),  # noqa: B023  # called at once
            MILD,
        )
        close([found.estimate, *found.interval], [alone.estimate, *alone.interval])
        assert (found.num_products, found.num_probes) == (alone.num_products, alone.num_probes)
        require_same_bits(found.estimate)


def solves() -> None:
    require_solution("cg", lambda H, part: hesse.nystrom(H, 20, shift=0.01, rng=0))


def other_solves() -> None:
    require_solution("cg", lambda H, part: None)
    require_solution("cg", lambda H, part: hesse.jacobi(part(MILD.diagonal()), like=H))
    require_solution("minres", lambda H, part: None)
    require_solution("minres", lambda H, part: hesse.nystrom(H, 20, shift=0.01, rng=0))
    exact = torch.linalg.solve(MILD, B)
    H = RowsOfRanks(MILD)
    estimated = hesse.jacobi(hesse.diagonal(H, method="exact"))
    close(estimated @ H.part(B), H.part(B) / H.part(MILD.diagonal()).unsqueeze(-1))
    found, _ = both(lambda H, part: hesse.solve(H, part(B[:, 0]), tol=1e-11, x0=part(B[:, 1])), INDEFINITE)
    close(RowsOfRanks(A).whole(found.solution), torch.linalg.solve(INDEFINITE, B[:, 0]))
    arrays, _ = both(lambda H, part: hesse.solve(H, part(B[:, 0]).numpy(), tol=1e-11), MILD)
    assert isinstance(arrays.solution, np.ndarray)
    close(RowsOfRanks(MILD).whole(torch.from_numpy(arrays.solution)), exact[:, 0])


def require_solution(method: str, preconditioner: Callable[[Any, Any], Any]) -> None:
    found, alone = both(
        lambda H, part: hesse.solve(H, part(B), method=method, tol=1e-11, preconditioner=preconditioner(H, part)), MILD
    )
    close(RowsOfRanks(MILD).whole(found.solution), torch.linalg.solve(MILD, B))
    assert (found.endings, found.num_products) == (alone.endings, alone.num_products)
    require_same_bits(found.residual_norms)


def paths_of_solutions() -> None:
    shifts = [1.0, 0.1]
    identity = torch.eye(N, dtype=torch.float64)

    def of_rank_20(H: Any) -> Callable[[float], hesse.Operator]:
        return lambda shift: hesse.nystrom(H, 20, shift=shift, rng=0)

    for M in (None, of_rank_20):
        found, alone = both(
            lambda H, part: hesse.solve_shifted(H, part(B[:, 0]), shifts, tol=1e-11, preconditioner=M and M(H)),  # noqa: B023  # called at once
            MILD,
        )
        assert found.num_products == alone.num_products
        for shift, x in zip(shifts, found.solutions, strict=True):
            close(RowsOfRanks(A).whole(x), torch.linalg.solve(MILD + shift * identity, B[:, 0]))
    H = RowsOfRanks(INDEFINITE)
    negative = hesse.solve(H, H.part(B[:, 0]), method="cg", tol=1e-12)
    direction = H.whole(negative.negative_curvature)
    close(direction @ INDEFINITE @ direction, negative.curvature)


def algebra() -> None:
    H, G = RowsOfRanks(A), RowsOfRanks(torch.triu(A), symmetric=False)
    G.shards = H.shards
    for made, expected in (
        (H.shift(2.0) - H / 4, A + 2 * torch.eye(N, dtype=torch.float64) - A / 4),
        (hesse.Identity(H) + H @ H, torch.eye(N, dtype=torch.float64) + A @ A),
        (G.T @ G, torch.triu(A).mT @ torch.triu(A)),
        (G.T, torch.triu(A).mT),
    ):
        assert (made.length, made.ranges) == (H.length, H.ranges)
        close(H.whole(made @ H.part(B)), expected @ B)
        close(H.whole(H.part(B[:, 0]) @ made), B[:, 0] @ expected)
        close(made.gram(H.part(B), H.part(B)), B.mT @ B, 1e-12)
    assert (G.T @ G).symmetric
    close(hesse.eigsh(G.T @ G, 1, rng=0).values, torch.linalg.eigvalsh(torch.triu(A).mT @ torch.triu(A))[-1:], 1e-6)
    for draw in ("randn", "signs"):
        alone = getattr(hesse.as_operator(A), draw)(3, 5)
        assert torch.equal(H.whole(getattr(H, draw)(3, 5)), alone)
        assert torch.equal(getattr(H.shift(1.0), draw)(3, 5), H.part(alone))
    require_same_bits(H.whole(H.randn(2)))
    long = torch.randn(60_000, 1, generator=torch.Generator().manual_seed(1))
    H.shards = Shards(H.ranks, len(long), ranges(len(long), [0, 1, 0, 1, 1, 0], H.ranks.rank))
    here = H.part(long)
    assert abs(float(H.gram(here, here)) / float(long.double().square().sum()) - 1) < 2e-7


def refusals() -> None:
    H, rank = RowsOfRanks(A), dist.get_rank()
    for name, ask in (
        ("to_dense()", H.shift(1.0).to_dense),
        ("rows()", lambda: H.rows([0])),
        ("to_scipy()", H.to_scipy),
        ("to_sparse()", lambda: H.to_sparse(torch.eye(N))),
        ("factorize()", lambda: hesse.factorize(H)),
    ):
        refused(NotImplementedError, f"{name} needs whole vectors, but those of this", ask)
    refused(ValueError, f"should have shape ({H.length},) or", lambda: H @ B)
    refused(ValueError, f"should have shape ({H.length},) or", lambda: H @ B[:, 0])
    refused(ValueError, "start given to eigsh", lambda: hesse.eigsh(H, 1, start=B))
    refused(ValueError, "cut up among ranks the same way", lambda: H + hesse.as_operator(A))
    other = RowsOfRanks(A, [0, 1, 1, 1, 0, 0])
    refused(ValueError, "cut up among ranks the same way", lambda: H + other)
    foreign = hesse.jacobi(other.part(A.diagonal()), like=other)
    refused(ValueError, "cut up among ranks as", lambda: hesse.solve(H, H.part(B), preconditioner=foreign))
    refused(ValueError, "of shape", lambda: hesse.jacobi(torch.ones(H.length + (rank == 1), dtype=B.dtype), like=H))
    refused(ValueError, "but entry 0 is held by none", lambda: Shards(H.ranks, 9, [(1, 8)]))
    refused(ValueError, "but entry 4 is held twice", lambda: Shards(H.ranks, 9, [(0, 5)] if rank else [(4, 5)]))
    broken = H.part(B).clone()
    if rank == 1:
        broken[0, 1] = torch.nan
    refused(ValueError, "b given to solve holds entries", lambda: hesse.solve(H, broken))
    refused(ValueError, "start given to eigsh", lambda: hesse.eigsh(H, 1, start=broken))
    refused(ValueError, "diagonal given to jacobi", lambda: hesse.jacobi(broken[:, 1], like=H))
    H._rows = H._rows.clone()
    H._rows[: rank == 1] = torch.inf
    refused(hesse.NonFiniteProductError, "Product 1 of trace", lambda: hesse.trace(H, method="hutchinson", rng=0))
    H = RowsOfRanks(A)
    refused(ValueError, "has certify", lambda: hesse.eigsh(H, 1, certify=rank == 1))
    refused(ValueError, "nystrom has rank", lambda: hesse.nystrom(H, 3 + (rank == 1)))
    shifted = H.shift(1.0 + 1e-15 * (rank == 1))
    refused(ValueError, "solve has an operator '1.0 * RowsOf", lambda: hesse.solve(shifted, H.part(B)))
    refused(ValueError, "eigsh has an operator '1.0 * Product", lambda: hesse.eigsh((1 + rank) * (H.T @ H), 1))


def checkpoints() -> None:
    """A question that was stopped goes on with the same bits; what is not its whole file is refused."""
    H, rank, folder = RowsOfRanks(A), dist.get_rank(), shared_folder()
    require_resumed(lambda **keep: hesse.eigsh(H, 2, rng=5, basis_size=12, **keep).vectors, folder / "eigsh", 14)
    path = folder / "eigsh"
    again = {"k": 2, "rng": 5, "basis_size": 12, "checkpoint": path}
    other = RowsOfRanks(A, [0, 1, 1, 1, 0, 0])
    refused(hesse.CheckpointError, "that held other parts of vectors", lambda: hesse.eigsh(other, **again))
    refused(hesse.CheckpointError, "is of eigsh, not of trace", lambda: hesse.trace(H, checkpoint=path))
    refused(hesse.CheckpointError, "each held a part", lambda: hesse.eigsh(hesse.as_operator(A), **again))
    refused(hesse.CheckpointError, "written with k 2, not 3", lambda: hesse.eigsh(H, **{**again, "k": 3}))
    refused(hesse.CheckpointError, "another operator", lambda: hesse.eigsh(RowsOfRanks(INDEFINITE), **again))
    if rank == 1:
        for slot in "ab":
            Path(f"{path}.rank1.{slot}").write_bytes(b"damaged")
    dist.barrier()
    refused(hesse.CheckpointError, "rank1", lambda: hesse.eigsh(H, **again))
    if rank == 1:
        for slot in "ab":
            Path(f"{path}.rank1.{slot}").unlink()
    dist.barrier()
    refused(hesse.CheckpointError, "lacks the file eigsh.rank1.", lambda: hesse.eigsh(H, **again))


def checkpoints_of_other_questions() -> None:
    H, M, b, folder = RowsOfRanks(A), RowsOfRanks(MILD), RowsOfRanks(A).part(B), shared_folder()
    for name, most, question in (
        ("diagonal", 50, lambda **keep: hesse.diagonal(H, method="exact", rng=5, **keep).estimate),
        ("minres", 20, lambda **keep: hesse.solve(M, b, method="minres", tol=1e-3, **keep).solution),
        (
            "shifted",
            20,
            lambda **keep: hesse.solve_shifted(
                M, b[:, 0], [1.0, 0.1], preconditioner=lambda shift: hesse.nystrom(M, 9, shift=shift, rng=0), **keep
            ).solutions[1],
        ),
    ):
        require_resumed(question, folder / name, most)
    changed = b.clone()
    changed[: dist.get_rank() == 1] += 1
    refused(
        hesse.CheckpointError,
        "was written with b ",
        lambda: hesse.solve(M, changed, method="minres", tol=1e-3, checkpoint=folder / "minres"),
    )


def require_resumed(question: Callable[..., Tensor], path: Path, most: int) -> None:
    """The answer at a stretch has the bits of the answer with a stop after so many products, on one rank."""

    def stop(progress: hesse.Progress) -> bool:
        return dist.get_rank() == dist.get_world_size() - 1 and progress.num_products >= most

    kept = hesse.Checkpoint(path, seconds=0)
    whole = question(checkpoint=None, callback=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        question(checkpoint=kept, callback=stop)
    assert torch.equal(whole, question(checkpoint=kept, callback=None))


def of_a_sharded_model() -> None:
    model, mesh = network(), init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    H, D = hesse.LossHessian(model, LOSS, mine(X, Y)), dense()
    D = (D + D.mT) / 2
    close(hesse.eigsh(H, 2, tol=1e-10).values, torch.linalg.eigvalsh(D).flip(0)[:2])
    close(hesse.trace(H, method="exact").estimate, D.trace())
    close(hesse.trace(H, method="xtrace", rng=0).estimate, hesse.trace(D, method="xtrace", rng=0).estimate)
    S, b = H.shift(1.0), torch.ones(H.length, dtype=torch.float64)
    M = hesse.jacobi(hesse.diagonal(S, method="exact"))
    identity = torch.eye(len(D), dtype=torch.float64)
    solved = hesse.solve(S, b, preconditioner=M, tol=1e-11).solution
    close(H.whole(solved), torch.linalg.solve(D + identity, torch.ones(len(D), dtype=torch.float64)))


def copies() -> None:
    """Ranks in pairs that hold the same parts."""
    H = RowsOfRanks(A, [0, 1, 0, 1, 1, 0])
    assert H.shards.length in (11 + 1 + 17, N - 29)
    close(H.gram(H.part(B), H.part(B)), B.mT @ B, 1e-12)
    close(H.total(H.part(B[:, 0]).sum()), B[:, 0].sum(), 1e-12)
    assert torch.equal(H.whole(H.part(B)), B)
    found, alone = hesse.eigsh(H, 2, rng=0), hesse.eigsh(A, 2, rng=0)
    close(found.values, alone.values)
    assert found.num_products == alone.num_products


CHECKS = [
    *(eigenvalues, eigenvalues_by_options, traces, diagonals, functions_of_the_matrix, determinants),
    *(solves, other_solves, paths_of_solutions, algebra, refusals),
    *(checkpoints, checkpoints_of_other_questions, of_a_sharded_model, copies),
]
