"""Run as a script: a rank that leaves, or never comes, is named on the others, long before the group's time is up."""

import functools
import re
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import hesse
from tests.distributed.forks import ranks
from tests.distributed.shared_products import LOSS, X, Y, mine, network

TIME_OUT = 300


class Failing(hesse.Operator):
    """A preconditioner that fails at its third product."""

    symmetric = positive_semidefinite = True

    def __init__(self, like: hesse.Operator) -> None:
        self.shape, self.dtype, self.device, self.made = like.shape, like.dtype, like.device, 0

    def matmat(self, V: Tensor) -> Tensor:
        self.made += 1
        if self.made == 3 and dist.get_rank() == 1:
            raise ArithmeticError("no more")
        return V.clone()


def leaves(H: hesse.LossHessian) -> None:
    """One rank leaves a question by an error of its own."""
    b = torch.ones(76, dtype=torch.float64)
    kind, said = (ArithmeticError, "no more") if dist.get_rank() == 1 else (RuntimeError, "ArithmeticError: no more")
    with pytest.raises(kind, match=re.escape(said)):
        hesse.solve(H.shift(1.0), b, preconditioner=Failing(H), tol=1e-11)


def interrupted(H: hesse.LossHessian) -> None:
    """Ctrl-C between the products of one rank."""

    class Pressed(Failing):
        def matmat(self, V: Tensor) -> Tensor:
            self.made += 1
            if self.made == 3 and dist.get_rank() == 1:
                raise KeyboardInterrupt
            return V.clone()

    b = torch.ones(76, dtype=torch.float64)
    kind, said = (KeyboardInterrupt, "") if dist.get_rank() == 1 else (RuntimeError, "rank 1 left solve")
    with pytest.raises(kind, match=said):
        hesse.solve(H.shift(1.0), b, preconditioner=Pressed(H), tol=1e-11)


def absent(_: hesse.LossHessian) -> None:
    """An operator is made on one rank only, while the other does something else."""
    if dist.get_rank() == 0:
        with pytest.raises(RuntimeError, match=r"the making of a LossHessian has waited \d+ s for rank 1 of 2"):
            hesse.LossHessian(network(), LOSS, mine(X, Y), group=dist.group.WORLD)
    else:
        dist.distributed_c10d._get_default_store().wait(["told"], timedelta(seconds=60))


CASES = {case.__name__: case for case in (leaves, interrupted, absent)}


def work(case: Callable[[hesse.LossHessian], None], rank: int) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=10 if case is absent else TIME_OUT))
    H = hesse.LossHessian(network(), LOSS, mine(X, Y), group=dist.group.WORLD)
    begun = time.monotonic()
    case(H)
    if case is absent and rank == 0:
        dist.distributed_c10d._get_default_store().set("told", "")
    # A collective that one rank has left is not waited for at the end.
    waited = "soon" if time.monotonic() - begun < TIME_OUT / 2 else "late"
    sys.stdout.write(f"rank {rank}: {case.__name__} {waited}\n")


if __name__ == "__main__":
    chosen = functools.partial(work, CASES[sys.argv[1]])
    sys.exit(any(ranks(2, Path(__file__).parent, chosen, seconds=TIME_OUT, joins=False)))
