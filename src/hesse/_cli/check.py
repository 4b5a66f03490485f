"""``hesse check``: what a problem's Hessian can be trusted with and would cost, before anything large is started."""

from __future__ import annotations

import json
from typing import Annotated

import torch
import typer

from hesse._checking.over_data import check_problem
from hesse._cli import output
from hesse._cli.failures import attributed, reported
from hesse._cli.load import load
from hesse._cli.options import DeviceOption, DtypeOption, ProblemFile, to_device


def check(
    problem: ProblemFile,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random directions, and of PyTorch's generator.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Check a problem before anything large is started with its Hessian.

    Prints whether evaluations repeat, whether the function can be differentiated twice and by which line not, whether
    derivatives agree with finite differences, and what products cost. Of a model, on the first batch of its data; the
    others are evaluated once, and examined where they differ. Exit code 0 if all is well, 1 if not.

    Examples:

      hesse check problem.py

      hesse check problem.py --dtype float64 --json
    """
    with reported():
        wanted_device = to_device(device)
        torch.manual_seed(seed)
        loaded = load(problem, wanted_device, None if dtype is None else dtype.torch)
        with attributed():
            report = check_problem(loaded, rng=seed)
        if as_json and output.is_first():
            typer.echo(json.dumps(report.to_json(), indent=2, allow_nan=False))
        elif output.is_first():
            typer.echo("" if loaded.model is None else "The loss of the first batch of the data:\n", nl=False)
            typer.echo(report)
        if not report.ok:
            raise typer.Exit(1)
