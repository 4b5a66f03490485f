"""The same on two ranks, by torchrun and gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hesse

SCRIPT = Path(__file__).with_name("two_ranks.py")
CHECKS = ["fsdp", "tensor_parallel", "data_parallel", "questions", "loaders", "plain_dtensors"]


@pytest.mark.private
def test_two_ranks_refuse_alike_and_the_remedies_are_right() -> None:
    # With port 0 torchrun takes one that is free.
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(hesse.__file__).parents[1]), str(Path(__file__).parents[2])]),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.run(
        [sys.executable, *torchrun, str(SCRIPT)], capture_output=True, text=True, env=environment, timeout=600
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert sorted(run.stdout.splitlines()) == sorted(
        f"rank {rank}: {check} held" for rank in (0, 1) for check in CHECKS
    )
