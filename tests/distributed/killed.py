"""Run by torchrun with restarts: a question whose ranks are killed, and go on from the first rank's checkpoint.

Arguments: a folder, and for each life of the ranks which one is killed at which product.
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
    folder, *kills = sys.argv[1:]
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    life = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    victim, product = map(int, kills[life].split(":")) if life < len(kills) else (-1, -1)

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
    sys.stdout.write(f"rank {dist.get_rank()}: {zlib.crc32(repr(digits).encode())} after {life}\n")
    sys.stdout.flush()
    dist.destroy_process_group()
