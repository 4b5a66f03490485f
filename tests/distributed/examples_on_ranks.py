"""Run as a script: an example on two ranks, as torchrun starts it.

``python -m tests.distributed.examples_on_ranks EXAMPLE``.
"""

import runpy
import sys
from pathlib import Path

# What the examples import, once for both ranks.
import torch.distributed.fsdp  # noqa: F401  # loaded once, before the ranks are forked

import hesse  # noqa: F401  # loaded once, before the ranks are forked
from tests.distributed.forks import ranks

FOLDER = Path(__file__).parents[2] / "examples"


def work(rank: int) -> None:
    runpy.run_path(str(FOLDER / sys.argv[1]), run_name="__main__")


if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER))
    sys.exit(any(ranks(2, FOLDER, work, seconds=240, joins=False)))
