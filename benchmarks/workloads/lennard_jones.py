"""The Lennard-Jones energy of a cluster, written once with a list of pairs and once with all pairs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.workloads.base import Workload, draw_rows


def cluster(num_atoms: int, dtype: torch.dtype) -> Tensor:
    """Atoms near the sites of a cubic lattice: none so close that the energy overflows."""
    side = 1
    while side**3 < num_atoms:
        side += 1
    axis = 1.12 * torch.arange(side, dtype=torch.float32)
    sites = torch.cartesian_prod(axis, axis, axis)[:num_atoms]
    jitter = torch.randn(num_atoms, 3, generator=torch.Generator().manual_seed(0))
    return (sites + 0.05 * jitter).to(dtype)


def energy_of_pairs(positions: Any, first: Any, second: Any) -> Any:
    squared = ((positions[first] - positions[second]) ** 2).sum(-1)
    inverse_sixth = squared**-3
    return 4 * (inverse_sixth**2 - inverse_sixth).sum()


def energy_of_all(positions: Any, identity: Any) -> Any:
    # An atom's distance to itself is set to 1, where the energy is 0 and, since the difference is 0
    # whatever the positions, so are its derivatives.
    squared = ((positions[:, None] - positions[None]) ** 2).sum(-1) + identity
    inverse_sixth = squared**-3
    return 2 * (inverse_sixth**2 - inverse_sixth).sum()


def jax_twin_of_pairs() -> Callable[..., Any]:
    return energy_of_pairs


def jax_twin_of_all() -> Callable[..., Any]:
    return energy_of_all


def build_pairs(dtype: torch.dtype = torch.float32, quick: bool = False) -> Workload:
    num_atoms = 8 if quick else 200
    first, second = torch.triu_indices(num_atoms, num_atoms, offset=1)
    return Workload(
        name="lennard-jones-pairs",
        title=f"Lennard-Jones, {num_atoms} atoms, list of pairs",
        func=lambda positions: energy_of_pairs(positions, first, second),
        inputs=cluster(num_atoms, dtype),
        rows=draw_rows(3 * num_atoms, dtype),
        jax_twin=jax_twin_of_pairs,
        jax_data=(first, second),
    )


def build_all(dtype: torch.dtype = torch.float32, quick: bool = False) -> Workload:
    num_atoms = 8 if quick else 200
    identity = torch.eye(num_atoms, dtype=dtype)
    return Workload(
        name="lennard-jones-all",
        title=f"Lennard-Jones, {num_atoms} atoms, all pairs",
        func=lambda positions: energy_of_all(positions, identity),
        inputs=cluster(num_atoms, dtype),
        rows=draw_rows(3 * num_atoms, dtype),
        jax_twin=jax_twin_of_all,
        jax_data=(identity,),
    )
