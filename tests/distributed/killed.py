"""Run by torchrun: a question one of whose ranks is killed, and which goes on from the first rank's checkpoint.

Arguments: a folder; and which rank is killed at which product, if one is.
"""

import os
import signal
import sys
import zlib
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import hesse
from tests.distributed.shared_products import LOSS, X, Y, mine, network

if __name__ == "__main__":
    folder, *kill = sys.argv[1:]
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    victim, product = map(int, kill[0].split(":")) if kill else (-1, -1)

    class Killed(hesse.LossHessian):
        """Dies in a product, before it is summed over ranks."""

        made = 0

        def _matvec(self, v: torch.Tensor, transposed: bool = False) -> torch.Tensor:
            self.made += 1
            if dist.get_rank() == victim and self.made == product:
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._matvec(v, transposed)

    H = Killed(network(), LOSS, mine(X, Y), group=dist.group.WORLD)
    found = hesse.eigsh(H, k=3, rng=1, tol=1e-10, checkpoint=hesse.Checkpoint(Path(folder) / "eigsh.safetensors", 0))
    digits = [value.hex() for value in [*found.values.tolist(), *found.vectors.flatten().tolist()]]
    sys.stdout.write(f"rank {dist.get_rank()}: {zlib.crc32(repr(digits).encode())}\n")
    sys.stdout.flush()
    dist.destroy_process_group()
