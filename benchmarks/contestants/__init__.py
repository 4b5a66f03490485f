"""Contestants by name, the baseline first. A new one is a file here and a line in this list."""

from benchmarks.contestants import (
    curvlinops,
    hesse,
    hessian_eigenthings,
    jax,
    pyhessian,
    torch_autograd,
    torch_func,
)
from benchmarks.contestants.base import Contestant

BASELINE = torch_autograd.CONTESTANT.name

CONTESTANTS: dict[str, Contestant] = {
    contestant.name: contestant
    for contestant in (
        torch_autograd.CONTESTANT,
        *hesse.CONTESTANTS,
        torch_func.CONTESTANT,
        curvlinops.CONTESTANT,
        pyhessian.CONTESTANT,
        hessian_eigenthings.CONTESTANT,
        jax.JITTED,
        jax.LINEARIZED,
    )
}
