"""``hesse spectrum``: eigenvalues, trace and spectral density of a problem's Hessian, and a page that shows them."""

from __future__ import annotations

import contextlib
import functools
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hesse._base.devices import widest
from hesse._base.errors import CheckpointWarning, ConvergenceWarning
from hesse._base.numbers import duration, memory, number
from hesse._cli import entries, output
from hesse._cli.failures import INTERRUPTED, CommandError, UserError, attributed, reported, sentence
from hesse._cli.interrupt import Interrupt, interruptible
from hesse._cli.invocation import invocation
from hesse._cli.load import load
from hesse._cli.options import DeviceOption, DtypeOption, EngineOption, ProblemFile, to_device
from hesse._cli.resources import peak_memory
from hesse._linearize.options import Name
from hesse._operators.problem import Problem
from hesse._report.spectrum import Pair, Spectrum
from hesse._solvers.columns import norms
from hesse._solvers.eigen.eigsh import eigsh
from hesse._solvers.estimate.spectral_density import spectral_density
from hesse._solvers.estimate.trace import trace

Answer = TypeVar("Answer")
_Kept = Callable[[str], Path | None]


def spectrum(
    context: typer.Context,
    problem: ProblemFile,
    top: Annotated[int, typer.Option(min=0, help="How many of the largest eigenvalues.")] = 10,
    bottom: Annotated[int, typer.Option(min=0, help="How many of the smallest eigenvalues.")] = 5,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write result.json, result.safetensors, spectrum.png and index.html there. Made if it is not there.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random vectors, and of PyTorch's generator.")] = 0,
    tol: Annotated[float, typer.Option(min=0, help="Relative residual at which an eigenvalue has converged.")] = 1e-6,
    certify: Annotated[
        bool, typer.Option("--certify", help="Make one product more with each eigenvector, for true residuals.")
    ] = False,
    max_products: Annotated[
        int, typer.Option(min=1, help="Products that the eigenvalues may take, and the trace as well.")
    ] = 300,
    probes: Annotated[int, typer.Option(min=0, help="Random vectors for the density; 0 for no density.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Products with each of them.")] = 80,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep what is known there every minute, and go on from what is there: with the same digits, however it"
            " was stopped. Made if it is not there.",
        ),
    ] = None,
    engine: EngineOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """See the spectrum of a problem's Hessian.

    Prints value, gradient norm, trace, the largest and smallest eigenvalues with their residuals, what it took, and
    what has not converged. Ctrl-C stops with what is known by then. With torchrun -m hesse, ranks that each load a
    part of the data ask together, and the first prints and writes.

    Examples:

      hesse spectrum problem.py

      hesse spectrum problem.py --top 20 --bottom 0 --out report

      hesse spectrum problem.py --dtype float64 --max-products 1000

      hesse spectrum problem.py --certify

      hesse spectrum problem.py --resume state
    """
    with reported():
        if probes == 1:
            raise CommandError("--probes should be 0, or at least 2 so that there is a band, but is 1.")
        if max_products < max(2, top + bottom):
            raise CommandError(
                f"--max-products should be at least {max(2, top + bottom)}, --top plus --bottom, but is {max_products}."
            )
        wanted_device = to_device(device)
        is_first, is_written = output.is_first(), out is not None
        out = out if is_first else None
        with contextlib.nullcontext() if out is None else output.folder(out):
            torch.manual_seed(seed)
            loaded = load(problem, wanted_device, None if dtype is None else dtype.torch)
            if is_written:
                entries.names(loaded.inputs)
            study = _Study(str(problem), loaded, seed, top, bottom, engine.kind if engine else None)
            failure: Exception | None = None
            try:
                with attributed(), interruptible() as interrupt:
                    study.ask(interrupt, tol, certify, max_products, probes, steps, _kept_in(resume))
            except (CommandError, UserError) as error:
                failure = error
                study.found.failure = sentence(error)
            study.found.command = invocation(context)
            study.found.interrupted = interrupt.asked
            study.found.peak_memory = peak_memory(study.hessian.device)
            # What the questions before a failed one found is not lost.
            if failure is None or study.found.num_products:
                if is_first:
                    _print(study.found)
                # Ranks that hold parts of vectors put them together.
                tensors = study.tensors() if is_written else {}
                if out is not None:
                    _write(out, study.found, tensors)
            if failure is not None:
                raise failure
        if study.found.interrupted:
            raise typer.Exit(INTERRUPTED)


class _Study:
    """The Hessian at the problem's point, and what is found out about it, step by step."""

    def __init__(self, name: str, problem: Problem, seed: int, top: int, bottom: int, engine: Name | None) -> None:
        self._seconds: dict[str, float] = {}
        with attributed():
            self.hessian = self._timed("evaluation", functools.partial(problem.operator, engine))
            n = self.hessian.shape[1]
            if n == 0:
                raise CommandError(f"The inputs of {name} hold no numbers, so there is no spectrum.")
            gradient = self.hessian.flatten(self.hessian.gradient).unsqueeze(-1).to(widest(self.hessian.device))
            self.found = Spectrum(
                problem=name,
                size=n,
                dtype=str(self.hessian.dtype).removeprefix("torch."),
                device=str(self.hessian.device),
                seed=seed,
                value=float(self.hessian.value),
                gradient_norm=float(norms(self.hessian, gradient)),
                num_top=min(top, n),
                num_bottom=min(bottom, max(0, n - top)),
                seconds=self._seconds,
            )

    def ask(
        self, interrupt: Interrupt, tol: float, certify: bool, max_products: int, probes: int, steps: int, kept: _Kept
    ) -> None:
        """All questions in turn, until the user interrupts."""
        found = self.found
        ends = (found.num_bottom, found.num_top)

        def answer(name: str, question: Callable[..., Answer], *arguments: Any, **words: Any) -> Answer:
            words |= {"rng": found.seed, "checkpoint": kept(name), "callback": interrupt, "progress": True}
            return self._timed(name, lambda: question(self.hessian, *arguments, **words))

        with warnings.catch_warnings():
            # What has not converged is told with the results.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("always", CheckpointWarning)
            warnings.showwarning = _told(warnings.showwarning)
            found.trace = answer("trace", trace, max_products=max_products)
            if sum(ends) and not self._is_asked(interrupt):
                found.eigenpairs = answer(
                    "eigenvalues", eigsh, ends, which="BE", tol=tol, max_products=max_products, certify=certify
                )
            if probes and not self._is_asked(interrupt):
                found.density = answer("density", spectral_density, num_probes=probes, num_steps=steps)

    def _is_asked(self, interrupt: Interrupt) -> bool:
        """Whether the user has asked to stop, on any rank."""
        ranks = self.hessian.ranks
        if ranks is not None:
            interrupt.asked = any(ranks.gather("the next question", lambda: interrupt.asked))
        return interrupt.asked

    def tensors(self) -> dict[str, Tensor]:
        """What is found, with eigenvectors named like the inputs: (how many, *shape) each."""
        found = self.found.tensors()
        if self.found.eigenpairs is not None:
            H, vectors = self.hessian, self.found.eigenpairs.vectors
            if H.shards is None:
                named = entries.to_entries(H.domain.spec.rebuild(H.domain.split(vectors.mT)))
            else:
                one_by_one = [entries.to_entries(H.unflatten(vector)) for vector in vectors.mT]
                named = {name: torch.stack([whole[name] for whole in one_by_one]) for name in one_by_one[0]}
            found |= {f"eigenvectors.{name}": leaf for name, leaf in named.items()}
        return found

    def _timed(self, step: str, work: Callable[[], Answer]) -> Answer:
        start = time.perf_counter()
        answer = work()
        self._seconds[step] = time.perf_counter() - start
        return answer


def _told(show: Callable[..., None]) -> Callable[..., None]:
    """Show warnings as before, but one about a checkpoint as a sentence."""

    def tell(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, CheckpointWarning):
            typer.echo(f"hesse: {message}", err=True)
        else:
            show(message, category, *where, **more)

    return tell


def _kept_in(folder: Path | None) -> _Kept:
    """Where each question keeps its state, by its name."""
    if folder is None:
        return lambda name: None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--resume {folder} cannot be made: {error.strerror}.") from error
    return lambda name: folder / f"{name}.safetensors"


def _write(out: Path, found: Spectrum, tensors: dict[str, Tensor]) -> None:
    # Only here, since loading the plotting library would hold up every command.
    from hesse._report import page, picture

    output.write_tensors(out / "result.safetensors", tensors)
    output.write_bytes(out / "spectrum.png", picture.to_bytes(picture.draw(found), "png"))
    output.write_bytes(out / "index.html", page.render(found).encode())
    output.write_bytes(out / "result.json", (json.dumps(found.to_json(), indent=2, allow_nan=False) + "\n").encode())
    typer.echo(f"\nThe page is {out / 'index.html'}")


def _print(found: Spectrum) -> None:
    console = Console()
    total = sum(found.seconds.values())
    steps = ", ".join(f"{step} {duration(seconds)}" for step, seconds in found.seconds.items())
    rows = [
        ("variables", str(found.size)),
        ("value", f"{found.value:.8g}"),
        ("gradient norm", f"{found.gradient_norm:.8g}"),
        ("products", str(found.num_products)),
        ("time", f"{duration(total)} ({steps})"),
        ("peak memory", ", ".join(f"{memory(size)} {place}" for place, size in found.peak_memory.items())),
    ]
    if found.trace is not None:
        low, high = found.trace.interval
        error = f" ± {number(0.5 * (high - low), 2)} ({found.trace.confidence:.0%})" if high > low else " (exact)"
        rows.insert(3, ("trace", f"{found.trace.estimate:.6g}{error}"))
    console.print(output.facts(rows))
    for name, pairs in (("largest", found.top), ("smallest", found.bottom)):
        if pairs:
            console.print()
            console.print(_eigenvalues(name, pairs, "true residual" if found.certified else "residual"))
    for line in found.unconverged():
        console.print(f"\n{line}", highlight=False, markup=False)


def _eigenvalues(name: str, pairs: list[Pair], residual: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(name)
    for column in ("eigenvalue", residual):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("bound met")
    for place, pair in enumerate(pairs, start=1):
        table.add_row(str(place), f"{pair.value:.7g}", f"{pair.residual:.1e}", pair.bound)
    return table
