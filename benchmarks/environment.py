"""The environment that stands beside the numbers. It holds no names of machines, users or folders."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from typing import Any

import torch

from benchmarks.processes import REPOSITORY
from hesse._base.processor import processor

DISTRIBUTIONS = (
    "hesse",
    "torch",
    "numpy",
    "scipy",
    "jax",
    "jaxlib",
    "curvlinops-for-pytorch",
    "PyHessian",
    "hessian-eigenthings",
    "pytorch-minimize",
    "optimistix",
    "scikit-learn",
)


def describe() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain")),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch_threads": torch.get_num_threads(),
        "torch_interop_threads": torch.get_num_interop_threads(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "thread_variables": {
            name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ
        },
        "packages": {name: version(name) for name in DISTRIBUTIONS},
        "dtype": "float32",
    }


def version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def git(*arguments: str) -> str | None:
    """The answer of git, or nothing where there is no git or no repository."""
    try:
        finished = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return finished.stdout.strip() if finished.returncode == 0 else None
