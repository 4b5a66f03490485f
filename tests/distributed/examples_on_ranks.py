"""Run as a script: examples on two ranks, as torchrun starts them, one after another.

``python -m tests.distributed.examples_on_ranks EXAMPLE ...``.
"""

import functools
import runpy
import sys
from pathlib import Path

# What the examples import, once for all ranks.
import torch.distributed.fsdp  # noqa: F401  # loaded once, before the ranks are forked

import hesse  # noqa: F401  # loaded once, before the ranks are forked
from tests.distributed.forks import ranks

FOLDER = Path(__file__).parents[2] / "examples"


def work(example: str, rank: int) -> None:
    runpy.run_path(str(FOLDER / example), run_name="__main__")


if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER))
    for example in sys.argv[1:]:
        if any(ranks(2, FOLDER, functools.partial(work, example), seconds=240, joins=False)):
            sys.exit(f"{example} failed")
