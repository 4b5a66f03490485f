"""``hesse vhp``: the product of a Hessian with a vector, or with many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from hesse._cli import entries, output
from hesse._cli.failures import reported
from hesse._cli.load import load
from hesse._cli.measure import Measurement, curvature, gradient_norm, measure
from hesse._cli.options import DeviceOption, DtypeOption, EngineOption, ProblemFile, to_device


def vhp(
    problem: ProblemFile,
    vector: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Safetensors file with the vector, named like the inputs: keys joined by dots, indices for tuples,"
            " 'value' for a lone tensor. Without it the vector is a random one, standard normal.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the product there, with the same names. Whole or not at all."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random vectors, and of PyTorch's generator.")] = 0,
    products: Annotated[
        int, typer.Option(min=1, help="Vectors to multiply; after the first they are random. One operator, one run.")
    ] = 1,
    compare: Annotated[
        bool, typer.Option("--compare", help="Time torch.autograd.functional.vhp on the same vectors, in turns.")
    ] = False,
    engine: EngineOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Multiply the Hessian of a problem with a vector.

    Prints value, gradient norm, curvature along the vector, products and seconds.

    Examples:

      hesse vhp problem.py

      hesse vhp problem.py --seed 1 --out product.safetensors

      hesse vhp problem.py --vector product.safetensors --dtype float64

      hesse vhp problem.py --products 100 --compare
    """
    with reported():
        if out is not None and output.is_first():
            output.check(out)
        given = None if vector is None else entries.read(vector)
        wanted_device = to_device(device)
        torch.manual_seed(seed)
        loaded = load(problem, wanted_device, None if dtype is None else dtype.torch)
        if out is not None:
            entries.names(loaded.inputs)
        first = None if given is None or vector is None else entries.from_entries(given, loaded.inputs, vector)
        kind = engine.kind if engine else None
        measurement = measure(loaded, first, products, np.random.default_rng(seed), compare, kind)
        # Ranks that hold parts of vectors find numbers, and put vectors together, with one another.
        table, product = _results(measurement), {} if out is None else entries.to_entries(measurement.product)
        if not output.is_first():
            return
        console = Console()
        console.print(table)
        if compare:
            console.print()
            console.print(_comparison(measurement))
        if out is not None:
            output.write_tensors(out, product)
            console.print(f"\nwrote {out}", highlight=False, markup=False, soft_wrap=True)


def _results(measurement: Measurement) -> Table:
    along, quotient = curvature(measurement)
    return output.facts(
        [
            ("value", f"{measurement.hessian.value.item():.8g}"),
            ("gradient norm", f"{gradient_norm(measurement):.8g}"),
            ("vᵀHv", f"{along:.8g}"),
            ("vᵀHv / vᵀv", f"{quotient:.8g}"),
            ("products", str(len(measurement.seconds))),
            ("seconds", f"{measurement.total_seconds:.4f} (evaluation {measurement.evaluation_seconds:.4f})"),
        ]
    )


def _comparison(measurement: Measurement) -> Table:
    """Medians of both, and the ratio of PyTorch's to hesse's with its share of the one evaluation."""
    ours, theirs = measurement.shared_seconds, measurement.peer_median_seconds
    rows = [
        ("", "ms a product"),
        ("hesse", f"{measurement.median_seconds * 1e3:.3f}"),
        ("with evaluation", f"{ours * 1e3:.3f}"),
        ("PyTorch's vhp", f"{theirs * 1e3:.3f}"),
        ("ratio", f"{theirs / ours:.2f}×"),
        ("difference", f"{measurement.difference:.1e}"),
    ]
    return output.facts(rows, justify="right", no_wrap=True)
