"""Many vectors at one point: one by one, or in batched backwards, whichever is measured faster and is right."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor

from hesse._autograd.agreement import disagreement
from hesse._base.memory import is_out_of_memory
from hesse._linearize.room import Room
from hesse._linearize.unit_vectors import UnitVectors

Mode = Literal["auto", "loop", "vmap"]

Multiply = Callable[[Tensor], Tensor]
"""A linear map of rows: one vector of shape (n,) to (m,), or a batch of them (k, n) to (k, m)."""

T = TypeVar("T")

Rows = Tensor | UnitVectors
"""One vector a row: a matrix, or rows of the identity that are made when they are multiplied."""


class Into(Protocol):
    """Where products are written, ``nbytes`` of the memory that may be taken."""

    nbytes: int

    def write(self, start: int, products: Tensor) -> None:
        """Take the products of the rows from ``start`` on."""
        ...


_TRIAL = 4
_CHUNK = 16
# Larger chunks are tried by this factor, as long as they gain.
_GROWTH = 4
_LARGEST = 1024
# A trial costs about ten products, so as many vectors must have come that it is little beside them.
_PATIENCE = 64
# A batch that gains less than this is not worth the memory it takes.
_GAIN = 1.05


class Batching:
    """How rows of vectors are multiplied: ``mode`` as asked for, and for ``"auto"`` what a trial decided.

    The trial multiplies a few random vectors both ways; the user's own may be mostly zeros. Batching is taken
    when it raises nothing, agrees leaf by leaf, and is faster; the first batch of every further size is compared
    with a single product, and the first whole chunk must be faster too. Then chunks grow while that makes them faster,
    and stay within ``room``. ``reason`` says which.

    An engine may take batches of one size only, ``fixed()``, and pay for the first: it is tried when single products
    have taken as long as that is expected to take, ``price()`` seconds. Where the engine changes, all begins anew.
    With ``chunk`` batches have that size, and do not grow.
    """

    def __init__(
        self,
        mode: Mode = "auto",
        precision: torch.dtype = torch.float32,
        *,
        chunk: int | None = None,
        fixed: Callable[[], int | None] = lambda: None,
        price: Callable[[], float] = lambda: 0.0,
        room: Room | None = None,
    ) -> None:
        if mode not in ("auto", "loop", "vmap"):
            raise ValueError(f'batching should be "auto", "loop" or "vmap" but is {mode!r}.')
        self.mode: Mode = mode
        self.chosen: Literal["loop", "vmap"] | None = None if mode == "auto" else mode
        self.reason = "not measured yet" if mode == "auto" else "as asked for"
        self._fixed_now, self._price = fixed, price
        self._fixed = fixed()
        # The dtype that rounds most on the way, which says how far a batch may differ.
        self._precision = precision
        self.room = room or Room(lambda: 2**62, torch.device("cpu"), asked=False)
        # Sizes of batches that were compared with single products.
        self._right_sizes: set[int] = set()
        self._single_seconds = self._batched_seconds = 0.0
        self._asked_size = chunk
        self._size = self._fixed or chunk or _CHUNK
        self._grows = mode == "auto" and room is not None
        # Vectors that have come so far, and what they took.
        self._seen, self._spent = 0, 0.0

    def inherit(self, earlier: Batching) -> None:
        """Take over what a trial at another point of the same function decided; a loop needs no further trial.

        A batched backward is tried again, since whether it is right may depend on the point.
        """
        self._seen, self._spent = earlier._seen, earlier._spent
        if earlier._asked_size is not None:
            self._asked_size = self._size = earlier._asked_size
        if self.mode == "auto" and earlier.chosen == "loop":
            self.chosen, self.reason = "loop", earlier.reason

    def adopt(self, chosen: str, chunk: int | None = None) -> None:
        """Take over a choice, which no clock is asked about again; whether a batch is right is still looked at."""
        self._grows = False
        self._size = self._fixed or chunk or self._size
        if self.mode == "auto":
            self.mode = self.chosen = "vmap" if chosen == "vmap" else "loop"
            self.reason = "settled for a checkpoint"

    def _follow_engine(self) -> None:
        """Begin anew where the engine has changed, since another one batches in another way."""
        if self._fixed == (now := self._fixed_now()):
            return
        self._fixed, self._size = now, now or self._asked_size or _CHUNK
        self._right_sizes.clear()
        if self.mode == "auto":
            self.chosen, self.reason = None, "not measured yet"

    @property
    def chunk(self) -> int:
        """How many vectors go through the graph at once."""
        return min(self._size, self.room.at_once) if self.chosen == "vmap" else 1

    def multiply(
        self,
        multiply: Multiply,
        rows: Rows,
        lengths: Sequence[int],
        *,
        into: Into | None = None,
    ) -> Tensor:
        """``multiply`` of each row of ``rows`` (k, n), as (k, m), where ``lengths`` are those of m's leaves.

        With ``into`` products go there, and the result is empty.

        Raises:
            MemoryBudgetError: not even one vector at a time stays within the memory.
        """
        count, length = rows.shape[0], sum(lengths)
        self._follow_engine()
        self._seen += count
        if count > 1 and (self.room.asked or self.mode == "vmap" or count >= _CHUNK):
            self.room.begin(into.nbytes if into else count * length * rows.dtype.itemsize, count)
        products: Tensor | None = None
        start, began = 0, time.perf_counter()
        for piece in self._pieces(multiply, rows, lengths):
            if piece.requires_grad:
                # Writing into one matrix would make the graph of every product pass through the others' copies.
                return torch.cat([piece, *self._pieces(multiply, rows[piece.shape[0] :], lengths)])
            if into is not None:
                into.write(start, piece)
            elif piece.shape[0] == count:
                # All at once: nothing to put together.
                products = piece
            else:
                products = piece.new_empty(count, length) if products is None else products
                products[start : start + piece.shape[0]] = piece
            start += piece.shape[0]
        self._spent += time.perf_counter() - began
        return torch.zeros(0, length, dtype=rows.dtype, device=rows.device) if products is None else products

    def _pieces(self, multiply: Multiply, rows: Rows, lengths: Sequence[int]) -> Iterator[Tensor]:
        """Products of consecutive rows, as many at a time as go through the graph at once."""
        count, start = rows.shape[0], 0
        if (self.room.asked or self.mode == "vmap") and count > 1 and not self.room.each:
            yield self._single(lambda: self.room.measured(lambda: multiply(rows[0:1][0]), 1)).unsqueeze(0)
            self.room.require(count)
            start = 1
        patient = self._seen >= _PATIENCE and self._spent >= self._price()
        if self.chosen is None and count >= self._size and patient:
            self._try(multiply, rows, lengths)
        while start < count:
            chunk = rows[start : start + self._next(count - start)]
            # A chunk of one goes the plain way: a batch of one costs more and gives nothing.
            if len(chunk) == 1:
                piece = self._single(functools.partial(multiply, chunk[0])).unsqueeze(0)
            else:
                attempted, failure = _attempt(functools.partial(self._batch, multiply, chunk, lengths))
                if attempted is None:
                    self.room.lower(len(chunk), len(chunk) // 2, failure)
                    continue
                piece = attempted
            yield piece
            start += len(chunk)

    def _next(self, left: int) -> int:
        """The size of the next chunk: a larger one than before, where that may gain."""
        if self._fixed:
            return self._fixed if self._fixed <= min(left, self.chunk) else 1
        larger = self._size * _GROWTH
        tried = self._size in self._right_sizes and self.chosen == "vmap"
        if self._grows and tried and left >= larger <= _LARGEST and self.room.fits(larger):
            return larger
        return self.chunk

    def _batch(self, multiply: Multiply, chunk: Tensor, lengths: Sequence[int]) -> Tensor:
        if len(chunk) in self._right_sizes:
            return multiply(chunk)
        return self._first_of_its_size(multiply, chunk, lengths)

    def _single(self, call: Callable[[], Tensor]) -> Tensor:
        """One product, or one sentence where not even that fits."""
        product, failure = _attempt(call)
        if product is None:
            raise self.room.exhausted(failure)
        return product

    def _try(self, multiply: Multiply, rows: Rows, lengths: Sequence[int]) -> None:
        """Multiply random vectors singly and batched, and take the faster way if they agree."""
        size = self._fixed or _TRIAL
        trial = torch.randn(size, rows.shape[1], dtype=rows.dtype, device=rows.device, generator=_generator(rows))
        self._single(lambda: self.room.measured(lambda: multiply(trial[0]), 1))
        timed = [_timed(multiply, row) for row in trial[:_TRIAL]]
        # The fastest: the first product of a process pays for what PyTorch loads at it.
        self._single_seconds = min(seconds for _, seconds in timed)
        if not self.room.each:
            # Somebody else is profiling. The next call may tell.
            return
        attempted, failure = None, ""
        if self.room.fits(size):
            attempted, failure = _attempt(lambda: self._batched(multiply, trial, look=True))
        if attempted is None:
            if failure:
                self.room.lower(size, 1, failure)
            self.chosen, self.reason = "loop", f"{size} vectors at once do not fit into the memory"
            return
        batch, seconds = attempted
        if batch is None:
            return
        # The look at the memory takes time of its own, and so does what is made at the first batch.
        if self._fixed or seconds < 4 * size * self._single_seconds:
            seconds = _timed(multiply, trial)[1]
        self._judge(batch[:_TRIAL], torch.stack([product for product, _ in timed]), lengths)
        self._decide(seconds, size)

    def _first_of_its_size(self, multiply: Multiply, chunk: Tensor, lengths: Sequence[int]) -> Tensor:
        """A batch of a size not seen yet, compared with the single product of a random combination of its rows.

        A batch that stands in the wrong place may fit by chance at one size and not at another.
        """
        weights = torch.randn(len(chunk), dtype=chunk.dtype, device=chunk.device, generator=_generator(chunk))
        single = multiply(weights @ chunk)
        usual = self.chunk
        batch, seconds = self._batched(multiply, chunk, look=self.room.is_tight(len(chunk)))
        if batch is not None:
            self._judge((weights.to(batch.dtype) @ batch).unsqueeze(0), single.unsqueeze(0), lengths)
            if len(chunk) == usual and not self._fixed:
                self._decide(seconds, len(chunk))
            elif len(chunk) > usual:
                self._grow(seconds / len(chunk), len(chunk))
        if batch is None or self.chosen == "loop":
            return torch.stack([multiply(row) for row in chunk])
        self._right_sizes.add(len(chunk))
        return batch

    def _grow(self, seconds: float, size: int) -> None:
        """Take the larger size if it was faster a vector."""
        if _GAIN * seconds < self._batched_seconds:
            self._size, self._batched_seconds = size, seconds
            self.reason = self._figures(size)
        else:
            self._grows = False

    def _batched(self, multiply: Multiply, rows: Tensor, *, look: bool) -> tuple[Tensor | None, float]:
        try:
            if look:
                return self.room.measured(functools.partial(_timed, multiply, rows), len(rows))
            return _timed(multiply, rows)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # Whatever a backward of the user's own raises on a batch, it is the batch that it cannot do.
            self._refuse(f"a batch raises: {_first_line(error)}", error)
            return None, 0.0

    def _judge(self, batch: Tensor, singles: Tensor, lengths: Sequence[int]) -> None:
        parts = (list(product.detach().split_with_sizes(list(lengths), dim=-1)) for product in (batch, singles))
        times = disagreement(*parts, precision=self._precision)
        if times > 1:
            self._refuse(f"a batch differs from single products by {times:.1e} times what rounding allows")

    def _decide(self, seconds: float, count: int) -> None:
        if self.mode == "auto" and self.chosen != "loop":
            self._batched_seconds = seconds / count
            self.chosen = "vmap" if _GAIN * self._batched_seconds < self._single_seconds else "loop"
            self.reason = self._figures(count)

    def _figures(self, count: int) -> str:
        batched, single = self._batched_seconds * 1e3, self._single_seconds * 1e3
        return f"a vector took {batched:.3g} ms in a batch of {count}, {single:.3g} ms singly"

    def _refuse(self, reason: str, error: Exception | None = None) -> None:
        if self.mode == "vmap":
            raise RuntimeError(
                f'batching="vmap" was asked for, but {reason}. Use batching="auto" or "loop".'
            ) from error
        self.chosen, self.reason = "loop", reason


def _generator(tensor: Rows) -> torch.Generator:
    """Draws of our own: a product must not advance the user's generator."""
    return torch.Generator(tensor.device).manual_seed(0)


def _timed(multiply: Multiply, rows: Tensor) -> tuple[Tensor, float]:
    _synchronize(rows)
    began = time.perf_counter()
    product = multiply(rows)
    _synchronize(product)
    return product, time.perf_counter() - began


def _synchronize(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _attempt(call: Callable[[], T]) -> tuple[T | None, str]:
    """What ``call`` returns, or None and the reason where memory ran out.

    The exception ends here: the frames of a failed attempt hold its tensors.
    """
    try:
        return call(), ""
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None, _first_line(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
