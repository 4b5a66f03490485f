"""What can only be seen on a GPU: ``python -m benchmarks.gpu`` on a machine that has one, in less than nine minutes.

Each check is timed and isolated, and the results are written after each. ``--dry`` runs every check on the CPU, at
small sizes, to see that the script itself is right: its figures are then those of a CPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import traceback
from pathlib import Path

import torch

# The checks, in the order in which they run.
from benchmarks import gpu_layers, gpu_questions  # noqa: F401  # imported for the checks that they register
from benchmarks.gpu_machine import CHECKS, Facts, Machine

RESULTS = Path(__file__).parent / "results"
SECONDS = 520.0


def environment(machine: Machine) -> Facts:
    """What the figures were taken with."""
    facts: Facts = {"torch": torch.__version__, "dry": machine.dry}
    if not machine.dry:
        facts |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        facts["cudnn"] = torch.backends.cudnn.version()
    return facts


def run(machine: Machine, path: Path, seconds: float = SECONDS) -> list[Facts]:
    """Every check for which time is left; the file holds what is known so far."""
    end = time.monotonic() + seconds
    found = [{"check": "environment", **environment(machine)}]
    for name, (needed, function) in CHECKS.items():
        began = time.monotonic()
        if began + needed > end:
            facts: Facts = {"skipped": "no time was left"}
        else:
            try:
                facts = function(machine)
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                facts = {"failed": f"{type(error).__name__}: {str(error)[:300]}", "at": f"{place.name}:{place.lineno}"}
        found.append({"check": name, **facts, "seconds": round(time.monotonic() - began, 2)})
        print(json.dumps(found[-1], default=str), flush=True)
        path.write_text(json.dumps(found, default=str, indent=1) + "\n")
    return found


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="on the CPU, at small sizes")
    parser.add_argument("--out", type=Path, default=None, help="the file of results")
    given = parser.parse_args()
    if not (given.dry or torch.cuda.is_available()):
        parser.error("There is no GPU that PyTorch can use. Run it with --dry to try the script on the CPU.")
    given_path = given.out or (Path(tempfile.gettempdir()) / "gpu.json" if given.dry else RESULTS / "gpu.json")
    run(Machine(given.dry), given_path)


if __name__ == "__main__":
    main()
