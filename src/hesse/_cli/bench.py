"""``hesse bench``: the benchmarks of the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import typer

from hesse._cli.failures import CommandError, reported


def bench(context: typer.Context) -> None:
    """Run the benchmarks of the source tree that the current directory is in.

    Arguments are passed on to them, as in

      hesse bench --quick --workload mlp

      hesse bench -- --help
    """
    with reported():
        root = _source_tree(Path.cwd())
        paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        # Not in the root itself, so that paths among the arguments mean what they say.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        code = subprocess.call([sys.executable, "-m", "benchmarks.run", *context.args], env=environment)
        raise typer.Exit(code)


def _source_tree(start: Path) -> Path:
    for folder in (start, *start.parents):
        if (folder / "benchmarks" / "run.py").is_file():
            return folder
    raise CommandError(
        f"There is no benchmarks/run.py in {start} or above it: the benchmarks live in the source tree of hesse,"
        " and are not installed with it."
    )
