"""Run as a script: a question whose ranks are killed at random places, each time anew, and which goes on.

``python -m tests.distributed.lives KIND KILLS``: a matrix or a ``model`` of which each rank holds ``parts``, or parts
of the ``data``.
"""

import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import hesse
from hesse._solvers import checkpoint_file
from tests.distributed.forks import ranks
from tests.distributed.rows_of_ranks import RowsOfRanks, matrix
from tests.distributed.shared_products import LOSS, X, Y, mine, network


def sharded_model() -> hesse.LossHessian:
    model, mesh = network(), init_device_mesh("cpu", (SIZE,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return hesse.LossHessian(model, LOSS, mine(X, Y))


OPERATORS: dict[str, Callable[[], hesse.Operator]] = {
    "parts": lambda: RowsOfRanks(matrix()),
    "model": sharded_model,
    "data": lambda: hesse.LossHessian(network(), LOSS, mine(X, Y), group=dist.group.WORLD),
}
SIZE = 2


def killed_at(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, in whose call of that number the process dies."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return call


def life(kind: str, folder: Path, victim: int = -1, place: str = "", count: int = 0) -> Callable[[int], None]:
    """What a rank does: it asks, and writes down the digits of the answer; the victim dies on the way."""

    def work(rank: int) -> None:
        H = OPERATORS[kind]()
        if rank == victim and place == "product":
            H.matmat = killed_at(count, H.matmat)  # type: ignore[method-assign]  # on purpose
        if rank == victim and place == "file":
            checkpoint_file.write = killed_at(count, checkpoint_file.write)
        kept = hesse.Checkpoint(folder / "kept", seconds=0)
        found = hesse.eigsh(H, 3, rng=1, tol=1e-10, basis_size=9, checkpoint=kept)
        torch.save([found.values, found.vectors, torch.tensor(found.num_products)], folder / f"digits.{rank}")

    return work


def digits(folder: Path) -> list[torch.Tensor]:
    """What all ranks wrote down."""
    return [value for rank in range(SIZE) for value in torch.load(folder / f"digits.{rank}")]


def survive(kind: str, kills: int) -> None:
    """Kill ranks at random, and compare with ranks that were left alone."""
    draw = random.Random(kills)
    with tempfile.TemporaryDirectory() as alone, tempfile.TemporaryDirectory() as place:
        assert ranks(SIZE, Path(alone), life(kind, Path(alone))) == [0] * SIZE
        folder, expected = Path(place), digits(Path(alone))
        done = 0
        while True:
            victim, what, count = draw.randrange(SIZE), draw.choice(["product", "file"]), draw.randint(1, 7)
            last = done >= kills
            ended = ranks(SIZE, folder, life(kind, folder, -1 if last else victim, what, count))
            if ended == [0] * SIZE:
                assert all(map(torch.equal, digits(folder), expected))
                if last:
                    return
                for file in folder.glob("kept*"):
                    file.unlink()
            else:
                # The others end with an error.
                assert ended[victim] == -signal.SIGKILL
                assert ended.count(1) == SIZE - 1
                done += 1


if __name__ == "__main__":
    survive(sys.argv[1], int(sys.argv[2]))
    sys.stdout.write(f"{sys.argv[1]}: the same digits after {sys.argv[2]} kills\n")
