"""The checks on pretended CUDA devices, in processes that start them before torch."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent
# In one process, since each loads torch and this project, some of the rows; all are exhaustive.
QUICK = ("on_devices_entries.py", "on_devices_synchronized.py", "-m", "not exhaustive")
ALL = sorted(path.name for path in FOLDER.glob("on_devices_*.py"))
RUN = (
    "from tests.device import pretended; pretended.start(); import sys, pytest;"
    " raise SystemExit(pytest.main(['-q', '-p', 'no:cacheprovider', '-p', 'no:xdist', *sys.argv[1:]]))"
)


@pytest.mark.skipif(shutil.which("g++") is None, reason="the pretended devices are compiled with g++")
@pytest.mark.skipif(torch.version.cuda is not None, reason="this build of PyTorch has hooks for CUDA of its own")
@pytest.mark.skipif(sys.platform != "linux", reason="the pretended devices are registered in a shared library of Linux")
@pytest.mark.parametrize("checks", [QUICK, *[pytest.param([name], marks=pytest.mark.exhaustive) for name in ALL]])
def test_pretended_devices(checks: Sequence[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", RUN, *[str(FOLDER / word) if word.endswith(".py") else word for word in checks]],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=900,
    )
    assert run.returncode == 0, run.stdout + run.stderr
