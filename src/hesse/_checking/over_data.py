"""A problem of a model, a loss and data: its first batch is examined, and the batches that may behave otherwise."""

from __future__ import annotations

import contextlib
import dataclasses
import linecache
import traceback
from collections.abc import Sequence

from hesse._autograd.provenance import Frame, is_users
from hesse._base.errors import first_line
from hesse._base.interrupts import is_unrelated
from hesse._checking.check import check
from hesse._checking.finding import Finding, found
from hesse._checking.observing import Place
from hesse._checking.result import Check
from hesse._checking.subject import Subject
from hesse._data.batch_losses import BatchLoss, losses_of_batches
from hesse._operators.probes import Rng
from hesse._operators.problem import Problem

MOST_EVALUATED = 1_000
"""A product over the data evaluates every batch too, so this is seldom more than one product takes."""

MOST_LAYOUTS = 3
"""Of sequences of any length each batch has a layout of its own."""


def check_problem(problem: Problem, *, rng: Rng = None) -> Check:
    """``check`` of a problem's function; of a model, of its loss on single batches.

    The first batch is examined. Where nothing is wrong with it, the others are evaluated once each. Examined are those
    of another layout, up to three, those whose value or gradient is not finite or that raise, and the last one.
    """
    if problem.model is None:
        return check(problem.func, problem.inputs, rng=rng)
    losses = losses_of_batches(problem.model, problem.loss, problem.data, problem.params, problem.options, "Problem")
    with contextlib.closing(losses):
        first = next(losses)
        look = _Look(first, check(first, first.parameters, rng=rng), rng)
        last = None
        for number, loss in enumerate(losses, 1):
            if not look.report.ok or number == MOST_EVALUATED:
                break
            last = None if look.evaluate(number, loss) else (number, loss)
        if last is not None and look.report.ok:
            look.examine(*last)
    return look.result()


class _Look:
    """The report of the first batch, to which the others add what they alone have."""

    def __init__(self, first: BatchLoss, report: Check, rng: Rng) -> None:
        self.report, self._rng = report, rng
        self._layouts, self._examined, self._evaluated = {first.layout}, [0], 1

    def result(self) -> Check:
        return dataclasses.replace(self.report, batches=self._evaluated, examined=tuple(self._examined))

    def evaluate(self, number: int, loss: BatchLoss) -> bool:
        """Evaluate a batch; whether it was examined, since it differs from those before."""
        self._evaluated += 1
        new = len(self._layouts) <= MOST_LAYOUTS and loss.layout not in self._layouts
        self._layouts.add(loss.layout)
        if new or not self._is_finite(loss):
            self.examine(number, loss)
            return True
        return False

    def examine(self, number: int, loss: BatchLoss) -> None:
        """``check`` of a batch; of what it finds, what was not found before."""
        self._examined.append(number)
        try:
            found_here = check(loss, loss.parameters, rng=self._rng)
        except Exception as error:
            if is_unrelated(error):
                raise
            self._add(number, [_raised(error)], [])
            return
        self._add(number, found_here.findings, found_here.notes)

    def _is_finite(self, loss: BatchLoss) -> bool:
        subject = Subject(loss, loss.parameters, False, None)
        try:
            if subject.evaluate().is_finite:
                return True
            with subject.preserved():
                return not loss.counts()
        except Exception as error:
            if is_unrelated(error):
                raise
            # To be examined, which tells what it is.
            return False

    def _add(self, number: int, findings: Sequence[Finding], notes: Sequence[Finding]) -> None:
        known = {_key(finding) for finding in (*self.report.findings, *self.report.notes)}

        def fresh(entries: Sequence[Finding]) -> list[Finding]:
            return [
                dataclasses.replace(finding, sentence=f"Batch {number}: {finding.sentence}")
                for finding in entries
                if _key(finding) not in known
            ]

        self.report = dataclasses.replace(
            self.report,
            findings=(*self.report.findings, *fresh(findings)),
            notes=(*self.report.notes, *fresh(notes)),
        )


def _key(finding: Finding) -> tuple[object, ...]:
    return finding.kind, finding.operator, finding.file, finding.line


def _raised(error: Exception) -> Finding:
    calls = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    theirs = [(code, line) for code, line in calls if is_users(code.co_filename)]
    frame = None
    if theirs:
        code, line = theirs[-1]
        frame = Frame(code.co_filename, line, code.co_name, linecache.getline(code.co_filename, line).strip())
    return found("raises", f"{type(error).__name__}: {first_line(error)}", at=Place("", frame))
