"""Scripts that several ranks run, by torchrun and gloo."""

import os
import subprocess
import sys
from pathlib import Path

import hesse
from tests.distributed.checks import chosen

HERE = Path(__file__).parent


def torchrun(script: Path | str, ranks: int, *arguments: str, seconds: int = 300) -> subprocess.CompletedProcess[str]:
    """Run a script, or a module by its name, on so many ranks, which are killed after so many seconds."""
    # With port 0 torchrun takes one that is free.
    command = [
        *[sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--max-restarts=0"],
        *["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--monitor-interval=0.1"],
        *(["-m", script] if isinstance(script, str) else [str(script)]),
        *arguments,
    ]
    return _run(command, seconds)


def forking(module: str, *arguments: str, seconds: int = 300) -> subprocess.CompletedProcess[str]:
    """Run a module that forks its ranks, see ``forks``; it is killed after so many seconds."""
    return _run([sys.executable, "-m", f"tests.distributed.{module}", *arguments], seconds)


def _run(command: list[str], seconds: int) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(hesse.__file__).parents[1]), str(HERE.parents[1])]),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds, check=False)


def held(run: subprocess.CompletedProcess[str]) -> list[str]:
    """What the ranks said, sorted; the output as an error where one failed."""
    assert run.returncode == 0, run.stdout + run.stderr
    return sorted(run.stdout.splitlines())


def require_checks(ranks: int, *names: str) -> None:
    """These checks hold on every rank: all of a module, or one, see ``checks``."""
    expected = [f"rank {rank}: {said} held" for rank in range(ranks) for said in chosen(names)]
    assert held(forking("checks", str(ranks), *names, seconds=560)) == sorted(expected)
