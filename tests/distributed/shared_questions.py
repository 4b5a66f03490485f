"""Checks that ranks run: questions about operators of all ranks, with the answers of a dense matrix on every rank."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import hesse
from tests.distributed.sharded_commands import shared_folder
from tests.distributed.shared_products import LOSS, X, Y, close, dense, mine, network, refused, require_same_bits

DENSE = dense()
DENSE = (DENSE + DENSE.mT) / 2
VALUES, BASIS = torch.linalg.eigh(DENSE)
IDENTITY = torch.eye(76, dtype=torch.float64)
B = torch.ones(76, dtype=torch.float64)


def operator() -> hesse.LossHessian:
    return hesse.LossHessian(DistributedDataParallel(network()), LOSS, mine(X, Y))


def eigenvalues() -> None:
    require_eigenvalues({})


def eigenvalues_by_options() -> None:
    for options in ({"rng": 0}, {"rng": 1, "basis_size": 12}, {"rng": 2, "block_size": 3}):
        found = require_eigenvalues(options)
    H = operator()
    again = hesse.eigsh(H, k=3, start=found, rng=0)
    close(again.values, VALUES.flip(0)[:3], 1e-6)
    largest = hesse.eigsh(H.shift(1.0) + 2 * H, k=1, rng=0)
    close(largest.values, 1 + 3 * VALUES[-1:], 1e-6)


def require_eigenvalues(options: dict[str, Any]) -> hesse.Eigenpairs:
    found = hesse.eigsh(operator(), k=3, tol=1e-10, **options)
    close(found.values, VALUES.flip(0)[:3], 1e-9)
    close((BASIS.flip(1)[:, :3].mT @ found.vectors).abs(), torch.eye(3, dtype=torch.float64), 1e-7)
    require_same_bits(found.values, found.vectors)
    return found


def traces() -> None:
    H = operator()
    for method in ("exact", "xtrace", "hutchinson"):
        found = hesse.trace(H, method=method, rng=None, max_products=200)
        require_same_bits(torch.tensor(found.estimate))
        assert abs(found.estimate - float(DENSE.trace())) < 0.3 * float(DENSE.trace()), method
    close(torch.tensor(hesse.trace(H, method="exact").estimate, dtype=torch.float64), DENSE.trace())


def estimates() -> None:
    H = operator()
    norm = hesse.frobenius_norm(H, rng=0, tol=0.01)
    assert abs(norm.estimate - float(DENSE.norm())) < 0.05 * float(DENSE.norm())
    exact = hesse.diagonal(H, method="exact")
    close(exact.estimate, DENSE.diagonal())
    estimated = hesse.diagonal(H, max_products=60)
    require_same_bits(exact.estimate, estimated.estimate, torch.tensor(norm.estimate))
    shifted = IDENTITY + DENSE
    logdet = hesse.logdet(H.shift(1.0), rng=0, tol=0.01)
    assert abs(logdet.estimate - float(torch.logdet(shifted))) < 0.05 * abs(float(torch.logdet(shifted)))
    density = hesse.spectral_density(H, num_probes=10, num_steps=20, rng=0)
    require_same_bits(density.nodes, density.weights, torch.tensor(logdet.estimate))
    close((density.weights * density.nodes).sum() / density.weights.sum(), DENSE.trace() / 76, 0.03)


def solves() -> None:
    A, expected = operator().shift(1.0), torch.linalg.solve(IDENTITY + DENSE, B)
    G = hesse.GaussNewton(DistributedDataParallel(network()), LOSS, mine(X, Y))
    preconditioners = [None, hesse.jacobi(hesse.diagonal(A, method="exact")), hesse.nystrom(G, 10, shift=1.0)]
    for M in preconditioners:
        found = hesse.solve(A, B, preconditioner=M, tol=1e-11)
        close(found.solution, expected, 1e-9)
        require_same_bits(found.solution)


def other_solves() -> None:
    H = operator()
    indefinite = hesse.solve(H.shift(-0.05), B, method="minres", tol=1e-11)
    close(indefinite.solution, torch.linalg.solve(DENSE - 0.05 * IDENTITY, B), 1e-6)
    several = hesse.solve_shifted(H, B, [1.0, 2.0], tol=1e-11)
    close(several.solutions[1], torch.linalg.solve(DENSE + 2 * IDENTITY, B), 1e-9)
    require_same_bits(indefinite.solution, *several.solutions)


def checkpoints() -> None:
    """The first rank's file is gone on from by all, wherever it lies for the others."""
    H, rank = operator(), dist.get_rank()
    folder = Path(tempfile.mkdtemp()) if rank == 0 else Path("/nowhere")
    shared = [str(folder)]
    dist.broadcast_object_list(shared)
    path = Path(shared[0]) / "eigsh.safetensors"

    def stop(progress: hesse.Progress) -> bool:
        # On one rank; all stop.
        return rank == dist.get_world_size() - 1 and progress.num_products >= 15

    kept = hesse.Checkpoint(path, seconds=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        undisturbed = hesse.eigsh(H, k=2, rng=5, tol=1e-9, checkpoint=hesse.Checkpoint(Path(shared[0]) / "u", 0))
        stopped = hesse.eigsh(H, k=2, rng=5, tol=1e-9, checkpoint=kept, callback=stop)
    assert stopped.num_products < undisturbed.num_products
    resumed = hesse.eigsh(operator(), k=2, rng=5, tol=1e-9, checkpoint=kept)
    assert torch.equal(resumed.values, undisturbed.values)
    assert torch.equal(resumed.vectors, undisturbed.vectors)
    require_same_bits(resumed.values, resumed.vectors)
    refused(hesse.CheckpointError, "was written with k 2, not 3", lambda: hesse.eigsh(H, k=3, rng=5, checkpoint=kept))
    if rank == 0:
        path.write_bytes(b"damaged")
    dist.barrier()
    refused(hesse.CheckpointError, "is damaged", lambda: hesse.eigsh(H, k=2, rng=5, checkpoint=kept))


def checkpoints_of_own_draws() -> None:
    """Without a seed all ranks draw as the first, with a checkpoint too."""
    path = shared_folder() / "eigsh.safetensors"
    found = hesse.eigsh(operator(), k=2, rng=None, tol=1e-9, checkpoint=path)
    close(found.values, VALUES.flip(0)[:2], 1e-8)
    require_same_bits(found.values, found.vectors)


def warnings_of_the_first_rank() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert not hesse.eigsh(operator(), k=3, rng=0, max_products=4).converged
    said = [warning for warning in caught if issubclass(warning.category, hesse.ConvergenceWarning)]
    assert len(said) == (dist.get_rank() == 0)


def other_groups() -> None:
    """Ranks that run for themselves do, and operators of two groups are not put together."""
    alone = [dist.new_group([rank]) for rank in range(dist.get_world_size())][dist.get_rank()]
    H = hesse.LossHessian(network(), LOSS, mine(X, Y), group=alone)
    assert H.ranks is None
    pair = dist.new_group(list(range(dist.get_world_size())))
    both = hesse.LossHessian(network(), LOSS, mine(X, Y), group=pair)
    close(both @ B, DENSE @ B)
    with pytest.raises(ValueError, match="got two groups"):
        both + operator()


CHECKS = [
    *(eigenvalues, eigenvalues_by_options, traces, estimates, solves, other_solves),
    *(checkpoints, checkpoints_of_own_draws, warnings_of_the_first_rank, other_groups),
]
