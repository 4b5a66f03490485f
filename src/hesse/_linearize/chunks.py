"""``Chunks``: many vectors at one point, one by one or in batched backwards, by one trial and within the memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor

from hesse._autograd.agreement import FACTOR, disagreement, halves
from hesse._base.clock import Clock
from hesse._base.errors import first_line
from hesse._base.fixed_draws import random_like
from hesse._base.interrupts import is_unrelated
from hesse._base.memory import is_out_of_memory
from hesse._linearize.options import Options
from hesse._linearize.room import Room
from hesse._linearize.unit_vectors import UnitVectors

Multiply = Callable[[Tensor], Tensor]
"""A linear map of rows: one vector of shape (n,) to (m,), or a batch of them (k, n) to (k, m)."""

T = TypeVar("T")

Rows = Tensor | UnitVectors
"""One vector a row: a matrix, or rows of the identity that are made when they are multiplied."""

# Vectors in a batch, and in the call that decides.
WIDTH = 16
_TRIAL = 4
# A batch that gains less is not worth the memory it takes.
_GAIN = 1.05


Pays = Callable[[float, int], bool]


class Chunks:
    """How rows of vectors are multiplied, decided by one trial and kept for all points of an operator.

    The trial multiplies a few random vectors both ways (the user's own may be mostly zeros). Batches are taken when
    they raise nothing, agree leaf by leaf, and are faster. Every new width, term and point is still compared by value.
    A batch that must be compiled waits until as many vectors have come as would have paid for it.

    Args:
        options: of the operator.
        device: where vectors are.
        precision: the dtype that rounds most on the way, which says how far a batch may differ.
        strict: whether a named budget is measured from the second vector on, and a call refused where not even one
            vector fits into the memory.

    Attributes:
        chosen: ``"loop"``, ``"vmap"``, or None before the trial.
        reason: why, with the figures.
    """

    def __init__(self, options: Options, device: torch.device, precision: torch.dtype, *, strict: bool = True) -> None:
        mode = options.batching_name
        self.chosen: Literal["loop", "vmap"] | None = None if mode == "auto" else mode
        self.reason = "no trial yet" if mode == "auto" else "as asked for"
        self.room = Room(device, asked=strict and options.memory is not None, refuses=strict)
        self._is_asked = mode == "vmap"
        self._precision = precision
        self._width = getattr(options.engine, "chunk", WIDTH) if self._is_asked else WIDTH
        # Seconds of a single product, where a batch must be compiled that the vectors so far do not pay for.
        self._waits: float | None = None
        self._past = 0

    def reopen(self) -> None:
        """Decide anew, since another engine batches in another way."""
        if not self._is_asked and self.chosen is not None:
            self.chosen, self.reason = None, "no trial yet"

    def stay(self) -> None:
        """Multiply as decided, however many vectors come."""
        self._waits = None

    def follow(self, chosen: Literal["loop", "vmap"], chunk: int) -> None:
        """Multiply as another process or rank decided."""
        self.chosen, self.reason, self._waits = chosen, "as decided before", None
        self._width = chunk if chosen == "vmap" else WIDTH

    @property
    def chunk(self) -> int:
        """How many vectors go through the graph at once."""
        return min(self._width, self.room.at_once) if self.chosen == "vmap" else 1

    def needed(self, results: int, count: int) -> int | None:
        """Bytes with which a call is not cut up, nor tight; None before a product was measured."""
        return 2 * (results + max(count, self._width) * self.room.each) if self.room.each else None

    def pieces(
        self,
        multiply: Multiply,
        rows: Rows,
        lengths: Sequence[int],
        *,
        key: Hashable,
        compared: set[Hashable],
        fixed: int | None,
        pays: Pays,
    ) -> Iterator[Tensor]:
        """Products of consecutive rows, as many at a time as go through the graph at once.

        Args:
            multiply: a vector (n,), or a batch of them (k, n).
            rows: one vector a row.
            lengths: of the leaves of a product, which are compared one by one.
            key: tells terms and points apart.
            compared: keys and widths that were compared with single products.
            fixed: the only width that an engine has.
            pays: whether to try batches, whose first one may be compiled, when a single product takes so many seconds
                and so many vectors came before.

        Raises:
            MemoryBudgetError: not even one vector at a time stays within the memory.
        """
        count, start = rows.shape[0], 0
        if (self.room.asked or self.chosen == "vmap") and count > 1 and not self.room.each:
            first = self._single(lambda: self.room.measured(lambda: multiply(rows[0:1][0]), 1))
            self.room.require(count)
            # Batches round otherwise: with a row beside them, a question that goes on would have other digits.
            if self.chosen != "vmap":
                yield first.unsqueeze(0)
                start = 1
        if count >= WIDTH and (self.chosen is None or (self._waits is not None and pays(self._waits, self._past))):
            self._try(multiply, rows, lengths, fixed, pays)
        self._past += count
        while start < count:
            width = self._next(count - start, fixed)
            # A chunk of one goes the plain way: a batch of one costs more and gives nothing.
            if width == 1:
                piece = self._single(functools.partial(multiply, rows[start : start + 1][0])).unsqueeze(0)
            else:
                chunk = rows[start : start + width]
                attempted, failure = _attempt(
                    functools.partial(self._batch, multiply, chunk, lengths, (key, width), compared)
                )
                if attempted is None:
                    self.room.lower(width, width // 2, failure)
                    continue
                piece = attempted
            yield piece
            start += width

    def _next(self, left: int, fixed: int | None) -> int:
        width = min(left, self.chunk)
        return width if fixed is None else fixed if fixed <= width else 1

    def _batch(
        self,
        multiply: Multiply,
        chunk: Tensor,
        lengths: Sequence[int],
        key: Hashable,
        compared: set[Hashable],
    ) -> Tensor:
        """A batch; the first of its kind is compared with the single product of a random combination of its rows.

        A batch that stands in the wrong place may fit by chance at one width and not at another.
        """
        if key in compared:
            return multiply(chunk)
        weights = random_like(chunk.new_empty(len(chunk)))

        def singly(factor: float = 1.0) -> Tensor:
            return multiply(factor * (weights @ chunk)).unsqueeze(0)

        def combined(batch: Tensor) -> Tensor:
            return (weights.to(batch.dtype) @ batch).unsqueeze(0)

        def apart() -> Iterator[Tensor]:
            for mask in halves(len(weights)):
                first = mask.to(weights)
                product, other = [multiply((weights * part) @ chunk) for part in (first, 1 - first)]
                yield (product + other).unsqueeze(0)

        single = singly()
        batch = self._batched(multiply, chunk, look=self.room.is_tight(len(chunk)))
        if batch is not None:
            again = lambda: combined(multiply(FACTOR * chunk)), lambda: singly(FACTOR)
            self._judge(self._disagreement(combined(batch), single, lengths, again, apart))
        if batch is None or self.chosen == "loop":
            return torch.stack([multiply(row) for row in chunk])
        compared.add(key)
        return batch

    def _single(self, call: Callable[[], Tensor]) -> Tensor:
        """One product, or one sentence where not even that fits."""
        product, failure = _attempt(call)
        if product is None:
            raise self.room.exhausted(failure)
        return product

    def _try(
        self,
        multiply: Multiply,
        rows: Rows,
        lengths: Sequence[int],
        fixed: int | None,
        pays: Pays,
    ) -> None:
        """Multiply random vectors singly and batched, and take the faster way if they agree."""
        width = fixed or _TRIAL
        trial = random_like(rows[0:1].expand(width, -1))
        self._single(lambda: self.room.measured(lambda: multiply(trial[0]), 1))
        timed = [_timed(multiply, row) for row in trial[:_TRIAL]]
        single = min(seconds for _, seconds in timed)
        if not pays(single, self._past):
            self.chosen, self.reason = "loop", "a batch must be compiled, which too few vectors would pay for"
            self._waits = single
            return
        self.chosen, self._waits = None, None
        if not self.room.each:
            # Somebody else is profiling, so the memory of a product is not known.
            self.chosen, self.reason = "loop", "the memory of a product could not be measured"
            return
        attempted, failure = None, ""
        if self.room.fits(width):
            attempted, failure = _attempt(lambda: (self._batched(multiply, trial, look=True),))
        if attempted is None:
            if failure:
                self.room.lower(width, 1, failure)
            self.chosen, self.reason = "loop", f"{width} vectors at once do not fit into the memory"
            return
        (batch,) = attempted
        if batch is None:
            return
        again = (
            lambda: multiply(FACTOR * trial)[:_TRIAL],
            lambda: torch.stack([multiply(FACTOR * row) for row in trial[:_TRIAL]]),
        )
        singles = torch.stack([product for product, _ in timed])
        self._judge(self._disagreement(batch[:_TRIAL], singles, lengths, again))
        if self.chosen is None:
            batched = min(_timed(multiply, trial)[1] for _ in range(2)) / width
            self.chosen = "vmap" if _GAIN * batched < single else "loop"
            self.reason = f"a vector took {batched * 1e3:.3g} ms in a batch of {width}, {single * 1e3:.3g} ms singly"

    def _batched(self, multiply: Multiply, rows: Tensor, *, look: bool) -> Tensor | None:
        call = functools.partial(multiply, rows)
        try:
            return self.room.measured(call, len(rows)) if look else call()
        except Exception as error:
            if is_unrelated(error):
                raise
            # Whatever a backward of the user's own raises on a batch, it is the batch that it cannot do.
            self._refuse(f"a batch raises: {first_line(error)}", error)
            return None

    def _judge(self, times: float) -> None:
        if times > 1:
            self._refuse(f"a batch differs from single products by {times:.1e} times what rounding allows")

    def _disagreement(
        self,
        batch: Tensor,
        singles: Tensor,
        lengths: Sequence[int],
        again: Sequence[Callable[[], Tensor]],
        apart: Callable[[], Iterator[Tensor]] | None = None,
    ) -> float:
        """How far both are apart, in units of what rounding allows; see :func:`disagreement`."""

        def parts(product: Tensor) -> list[Tensor]:
            return list(product.detach().split_with_sizes(list(lengths), dim=-1))

        both = [functools.partial(lambda product: parts(product()), product) for product in again]
        sums = None if apart is None else lambda: map(parts, apart())
        return disagreement(parts(batch), parts(singles), precision=self._precision, again=both, apart=sums)

    def _refuse(self, reason: str, error: Exception | None = None) -> None:
        if self._is_asked:
            raise RuntimeError(
                f'batching="vmap" was asked for, but {reason}. Use batching="auto" or "loop".'
            ) from error
        self.chosen, self.reason = "loop", reason


def _timed(multiply: Multiply, rows: Tensor) -> tuple[Tensor, float]:
    clock = Clock()
    return multiply(rows), clock.lap(rows.device)


def _attempt(call: Callable[[], T]) -> tuple[T | None, str]:
    """What ``call`` returns, or None and the reason where memory ran out.

    The exception ends here: the frames of a failed attempt hold its tensors.
    """
    try:
        return call(), ""
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None, first_line(error)
