"""Which engine makes the products of an operator: decided once, by one measured product and one trial.

The rule: programs are tried when the expected products would take ten times as long as compiling is expected to take
(``engines.py`` has the numbers), and kept when they are right and measured faster.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Hashable, Iterable
from typing import Protocol

from torch import Tensor

from hesse._autograd.thread_state import untraced
from hesse._base.clock import Clock
from hesse._base.errors import CaptureError, first_line, warn_caller
from hesse._base.fixed_draws import random_like
from hesse._base.memory import is_out_of_memory
from hesse._base.space import Space
from hesse._linearize.choice import Choice, EngineName
from hesse._linearize.chunks import Chunks
from hesse._linearize.engines import FEW, Engines
from hesse._linearize.tape import Tape
from hesse._operators.explanation import Explanation
from hesse._operators.terms import Part, Term

_lock = threading.RLock()


class Undecided(Protocol):
    """A point whose terms can be linearized by either engine; ``point.py`` has it."""

    variables: Space
    engines: Engines
    whole: Part

    @property
    def engine(self) -> EngineName: ...

    @property
    def chunks(self) -> tuple[Chunks, ...]: ...

    def multiply(self, entries: list[Tensor], part: Part, transposed: bool = False) -> list[Tensor]: ...

    def relinearize(self) -> None: ...

    def keep_engine(self) -> None: ...

    def reopen_chunks(self) -> None: ...

    def kept_terms(self) -> list[Term]: ...

    def terms(self) -> Iterable[tuple[float, Term, Hashable, bool]]: ...


def decide_engine(point: Undecided, products: int) -> None:
    """Decide, for so many products to come, whether programs take the tape's place."""
    engines = point.engines
    with _lock:
        expected = engines.expected(products)
        if not engines.is_open or expected < FEW:
            return
        seconds = engines.tape_seconds or untraced(_timed)(point, 2)
        nodes, kept = _sizes(point)
        if engines.pays(expected, seconds, nodes, kept, point.variables.device):
            untraced(_try)(point)


def follow(point: Undecided, choice: Choice) -> None:
    """Make products as another process or rank decided."""
    engines = point.engines
    if engines.is_automatic and point.engine != choice.engine:
        engines.follow(choice.engine)
        try:
            point.relinearize()
            point.keep_engine()
        except CaptureError as error:
            engines.refuse(first_line(error))
        finally:
            # Where the point could not follow, others do not either.
            engines.engine = point.engine
    for chunks in point.chunks:
        chunks.follow(choice.batching, choice.chunk)


def require_followed(name: str, now: Explanation, choice: Choice) -> None:
    """Raise unless products are made as was chosen before."""
    if now.engine != choice.engine:
        raise ValueError(
            f"The {name} multiplied by the {choice.engine} engine before and by the {now.engine} one now, so its digits"
            f' would differ. Make the operator anew, with engine="{choice.engine}".'
        )
    if now.rows != choice.rows:
        raise ValueError(
            f"The {name} cut batches into microbatches of {choice.rows} rows before and of {now.rows} now, so its"
            " digits would differ. Give memory=, the same each time."
        )


def _sizes(point: Undecided) -> tuple[int, int]:
    """Nodes of the tape's graphs of one term, and bytes kept of the largest."""
    # Where none is kept, one is made anew.
    terms = point.kept_terms() or [term for _, term, *_ in itertools.islice(point.terms(), 1)]
    nodes = sum(len(one.nodes()) for term in terms[:1] for one in term.linearizations if isinstance(one, Tape))
    return nodes, max([term.kept_bytes(()) for term in terms], default=0)


def _try(point: Undecided) -> None:
    """Take the programs if there are any, and if they are measured faster."""
    engines = point.engines
    tape_seconds = _timed(point, 2)
    engines.begin_trial()
    try:
        point.relinearize()
        seconds = _timed(point, 3)
        # Over data a program may be refused in that product only.
        stays = engines.refusal is None and engines.end_trial(tape_seconds, seconds)
    except BaseException as error:
        is_refused = isinstance(error, CaptureError) or is_out_of_memory(error)
        why = first_line(error)
        engines.refuse(why if is_refused else "its trial was interrupted")
        point.relinearize()
        if not is_refused:
            raise
        warn_caller(f'engine="auto" goes on with the tape: {why}.')
        return
    if stays:
        point.keep_engine()
        point.reopen_chunks()
    else:
        point.relinearize()


def _timed(point: Undecided, times: int) -> float:
    """Seconds of a product with a random vector, the least of a few."""
    least = float("inf")
    vector = [random_like(leaf) for leaf in point.variables.leaves]
    for _ in range(times):
        clock = Clock()
        point.multiply(vector, point.whole)
        least = min(least, clock.lap(point.variables.device))
    return least
