"""Run as a script: checks, one after another, by ranks that it forks and gloo joins.

``python -m tests.distributed.checks RANKS NAME ...``: all checks of a ``module``, or one, ``module.check``.
"""

import importlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

# What modules of checks import, once for all ranks.
import torch.distributed.fsdp
import torch.distributed.tensor.parallel  # noqa: F401  # loaded once, before the ranks are forked

import hesse
from tests.distributed.forks import ranks


def chosen(names: Sequence[str]) -> dict[str, Callable[[], None]]:
    """Checks by what a rank says of each that held."""
    found = {}
    for name in names:
        module, _, one = name.partition(".")
        checks = {check.__name__: check for check in importlib.import_module(f"tests.distributed.{module}").CHECKS}
        found |= {f"{check} of {module}": checks[check] for check in ([one] if one else checks)}
    return found


def work(rank: int) -> None:
    # PyTorch 2.13 warns of names that FSDP itself calls.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", hesse.ConvergenceWarning)
    # Modules may differentiate when they are imported, which a process may not before it forks.
    for said, check in chosen(sys.argv[2:]).items():
        try:
            check()
        except BaseException as error:
            error.add_note(f"in {said}")
            raise
        # In one piece: ranks write to one pipe.
        sys.stdout.write(f"rank {rank}: {said} held\n")
        sys.stdout.flush()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        sys.exit(any(ranks(int(sys.argv[1]), Path(place), work, seconds=540)))
