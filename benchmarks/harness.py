"""Times contestants beside each other: interleaved round by round, checked before a time counts.

A round runs every contestant once, one after the other, so that a slow second of the machine hits all
of them; what is reported is the median over rounds of each round's own ratio to the baseline.
"""

import gc
import importlib
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.answers import Reference
from benchmarks.contestants.base import CannotRun, Contestant, Prepared
from benchmarks.workloads.base import Workload

COLUMNS = ("lone", "one", "many")


@dataclass(frozen=True)
class Budget:
    """How long to measure one workload; the rounds follow from it, within bounds."""

    seconds: float = 60.0
    min_rounds: int = 3
    max_rounds: int = 50
    # A fast contestant is called repeatedly for this long in its turn, so that the clock's and the
    # loop's own costs vanish.
    turn_seconds: float = 0.05
    # Idle worker threads of one library spin for a moment and would steal cores from the next one.
    settle_seconds: float = 0.005


QUICK = Budget(seconds=0.0, min_rounds=1, max_rounds=1, turn_seconds=0.0, settle_seconds=0.0)


@dataclass
class Entry:
    """One contestant in one column: what is called, and what came out."""

    name: str
    prepared: Prepared
    column: str
    relative_error: float = math.inf
    calls: int = 1
    seconds: list[float] = field(default_factory=list)
    problem: str | None = None

    def call(self) -> Any:
        return getattr(self.prepared, self.column)()


def measure(
    workload: Workload,
    reference: Reference,
    contestants: Sequence[Contestant],
    baseline: str,
    budget: Budget,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Measure one workload and return what goes into the results file."""
    results: dict[str, Any] = {}
    ready: dict[str, Prepared] = {}
    for contestant in contestants:
        results[contestant.name] = result = {"problem": None, "columns": {}}
        try:
            importlib.import_module(contestant.module)
            vectors = contestant.lay_out(workload)
            start = clock()
            ready[contestant.name] = contestant.prepare(workload, vectors)
            result["prepare_seconds"] = clock() - start
        except Exception as error:
            result["problem"] = one_sentence(error)
    for column in COLUMNS:
        entries = [Entry(name, prepared, column) for name, prepared in ready.items()]
        for entry in entries:
            check_and_warm(entry, reference, budget, clock)
        run_rounds([entry for entry in entries if entry.problem is None], reference, budget, clock)
        for entry, row in zip(entries, rows_of(entries, baseline), strict=True):
            results[entry.name]["columns"][column] = row
    return {
        "name": workload.name,
        "title": workload.title,
        "num_inputs": workload.num_inputs,
        "num_vectors": len(workload.rows),
        "counted_ratio": workload.counted_ratio,
        "contestants": results,
    }


def check_and_warm(
    entry: Entry, reference: Reference, budget: Budget, clock: Callable[[], float] = time.perf_counter
) -> None:
    """Check the first answer, which also compiles what is compiled, and choose the calls a turn has."""
    try:
        judge(entry, reference, entry.call())
        if entry.problem is None:
            start = clock()
            entry.call()
            entry.calls = max(1, math.ceil(budget.turn_seconds / max(clock() - start, 1e-9)))
    except Exception as error:
        entry.problem = one_sentence(error)


def run_rounds(
    entries: Sequence[Entry],
    reference: Reference,
    budget: Budget,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Give every entry its turn, round by round, until the column's share of the budget is spent."""
    # What exists already is never garbage; freezing it keeps the collections between turns short.
    gc.freeze()
    start = clock()
    try:
        for completed in range(budget.max_rounds):
            if completed >= budget.min_rounds and clock() - start > budget.seconds / len(COLUMNS):
                break
            for entry in entries:
                take_turn(entry, reference, budget, clock)
    finally:
        gc.unfreeze()


def take_turn(entry: Entry, reference: Reference, budget: Budget, clock: Callable[[], float]) -> None:
    """Time one turn and check its last answer; a contestant that went wrong takes no further turns."""
    if entry.problem is not None:
        return
    gc.collect()
    gc.disable()
    time.sleep(budget.settle_seconds)
    try:
        start = clock()
        for _ in range(entry.calls):
            answer = entry.call()
        elapsed = clock() - start
        entry.seconds.append(elapsed / entry.calls)
        judge(entry, reference, answer)
    except Exception as error:
        entry.problem = one_sentence(error)
    finally:
        gc.enable()


def judge(entry: Entry, reference: Reference, answer: Any) -> None:
    entry.relative_error = reference.error(entry.prepared, entry.column, answer)
    if entry.relative_error > reference.tolerance:
        entry.problem = (
            f"Its answer is wrong: the relative error is {entry.relative_error:.1e}, "
            f"where {reference.tolerance:.0e} is allowed."
        )


def rows_of(entries: Sequence[Entry], baseline: str) -> list[dict[str, Any]]:
    """The results of one column; a problem stands in the place of times."""
    valid = {entry.name: entry.seconds for entry in entries if entry.problem is None}
    return [row_of(entry, valid.get(baseline)) for entry in entries]


def row_of(entry: Entry, baseline_seconds: list[float] | None) -> dict[str, Any]:
    error = entry.relative_error if math.isfinite(entry.relative_error) else None
    if entry.problem is not None:
        return {"problem": entry.problem, "relative_error": error}
    return {
        "problem": None,
        "relative_error": error,
        "seconds": entry.seconds,
        "calls_per_round": entry.calls,
        "median_seconds": median(entry.seconds),
        "speedup": paired_speedup(baseline_seconds, entry.seconds) if baseline_seconds else None,
    }


def paired_speedup(baseline_seconds: list[float], seconds: list[float]) -> float:
    """The median over rounds of the baseline's time divided by the contestant's time in the same round."""
    return median(b / s for b, s in zip(baseline_seconds, seconds, strict=True))


def one_sentence(error: Exception) -> str:
    """An exception as one sentence fit for a public file: its first sentence, without paths."""
    if isinstance(error, CannotRun):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed."
    first = re.split(r"\n|(?<=\.)\s", str(error).strip(), maxsplit=1)[0]
    first = re.sub(r"(?:/[\w.@+-]+){2,}", "…", first)
    return f"{type(error).__name__}: {first[:200].rstrip('.')}."
