"""Many vectors at one point: one by one, or in batched backwards, whichever is measured faster and is right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from hesse.functional.agreement import disagreement

Mode = Literal["auto", "loop", "vmap"]

Multiply = Callable[[Tensor], Tensor]
"""A linear map of rows: one vector of shape (n,) to (m,), or a batch of them (k, n) to (k, m)."""

_TRIAL = 4
_CHUNK = 16
# A trial costs about ten products, so as many vectors must have come that it is little beside them.
_PATIENCE = 64
# A batch that gains less than this is not worth the memory it takes.
_GAIN = 1.05


class Batching:
    """How rows of vectors are multiplied: ``mode`` as asked for, and for ``"auto"`` what a trial decided.

    The trial multiplies a few random vectors both ways; the user's own may be mostly zeros. Batching is taken
    when it raises nothing, agrees leaf by leaf, and is faster; the first batch of every further size is compared
    with a single product, and the first whole chunk must be faster too. ``reason`` says which.
    """

    def __init__(self, mode: Mode = "auto", precision: torch.dtype = torch.float32, *, can_batch: bool = True) -> None:
        if mode not in ("auto", "loop", "vmap"):
            raise ValueError(f'batching should be "auto", "loop" or "vmap" but is {mode!r}.')
        self.mode: Mode = mode
        self.chosen: Literal["loop", "vmap"] | None = None if mode == "auto" else mode
        self.reason = "not measured yet" if mode == "auto" else "as asked for"
        if not can_batch:
            if mode == "vmap":
                raise ValueError('batching="vmap" needs engine="tape": a program multiplies one vector at a time.')
            self.chosen, self.reason = "loop", "a program multiplies one vector at a time"
        # The dtype that rounds most on the way, which says how far a batch may differ.
        self._precision = precision
        # Sizes of batches that were compared with single products.
        self._right_sizes: set[int] = set()
        self._single_seconds = 0.0
        # Vectors that have come so far.
        self._seen = 0

    def inherit(self, earlier: Batching) -> None:
        """Take over what a trial at another point of the same function decided; a loop needs no further trial.

        A batched backward is tried again, since whether it is right may depend on the point.
        """
        self._seen = earlier._seen
        if self.mode == "auto" and earlier.chosen == "loop":
            self.chosen, self.reason = "loop", earlier.reason

    def adopt(self, chosen: str) -> None:
        """Take over a choice, which no clock is asked about again; whether a batch is right is still looked at."""
        if self.mode == "auto":
            self.mode = self.chosen = "vmap" if chosen == "vmap" else "loop"
            self.reason = "settled for a checkpoint"

    @property
    def chunk(self) -> int:
        """How many vectors go through the graph at once."""
        return _CHUNK if self.chosen == "vmap" else 1

    def multiply(self, multiply: Multiply, rows: Tensor, lengths: Sequence[int]) -> Tensor:
        """``multiply`` of each row of ``rows`` (k, n), as (k, m), where ``lengths`` are those of m's leaves."""
        length = sum(lengths)
        self._seen += rows.shape[0]
        products: Tensor | None = None
        start = 0
        for piece in self._pieces(multiply, rows, lengths):
            if piece.requires_grad:
                # Writing into one matrix would make the graph of every product pass through the others' copies.
                return torch.cat([piece, *self._pieces(multiply, rows[piece.shape[0] :], lengths)])
            if products is None:
                products = piece.new_empty(rows.shape[0], length)
            products[start : start + piece.shape[0]] = piece
            start += piece.shape[0]
        return rows.new_zeros(0, length) if products is None else products

    def _pieces(self, multiply: Multiply, rows: Tensor, lengths: Sequence[int]) -> Iterator[Tensor]:
        """Products of consecutive rows, as many at a time as go through the graph at once."""
        count, start = rows.shape[0], 0
        if self.chosen is None and count >= _CHUNK and self._seen >= _PATIENCE:
            self._try(multiply, rows, lengths)
        while start < count:
            chunk = rows[start : start + self.chunk]
            # A chunk of one goes the plain way: a batch of one costs more and gives nothing.
            if len(chunk) == 1:
                yield multiply(chunk[0]).unsqueeze(0)
            elif len(chunk) in self._right_sizes:
                yield multiply(chunk)
            else:
                yield self._first_of_its_size(multiply, chunk, lengths)
            start += len(chunk)

    def _try(self, multiply: Multiply, rows: Tensor, lengths: Sequence[int]) -> None:
        """Multiply random vectors singly and batched, and take the faster way if they agree."""
        trial = torch.randn(_TRIAL, rows.shape[1], dtype=rows.dtype, device=rows.device, generator=_generator(rows))
        timed = [_timed(multiply, row) for row in trial]
        # The fastest: the first product of a process pays for what PyTorch loads at it.
        self._single_seconds = min(seconds for _, seconds in timed)
        batch, seconds = self._batched(multiply, trial)
        if batch is None:
            return
        if 1 < seconds / (_TRIAL * self._single_seconds) < 4:
            seconds = min(seconds, _timed(multiply, trial)[1])
        self._judge(batch, torch.stack([product for product, _ in timed]), lengths)
        self._decide(seconds, _TRIAL)

    def _first_of_its_size(self, multiply: Multiply, chunk: Tensor, lengths: Sequence[int]) -> Tensor:
        """A batch of a size not seen yet, compared with the single product of a random combination of its rows.

        A batch that stands in the wrong place may fit by chance at one size and not at another.
        """
        weights = torch.randn(len(chunk), dtype=chunk.dtype, device=chunk.device, generator=_generator(chunk))
        single = multiply(weights @ chunk)
        batch, seconds = self._batched(multiply, chunk)
        if batch is not None:
            self._judge((weights.to(batch.dtype) @ batch).unsqueeze(0), single.unsqueeze(0), lengths)
            if len(chunk) == _CHUNK:
                self._decide(seconds, len(chunk))
        if batch is None or self.chosen == "loop":
            return torch.stack([multiply(row) for row in chunk])
        self._right_sizes.add(len(chunk))
        return batch

    def _batched(self, multiply: Multiply, rows: Tensor) -> tuple[Tensor | None, float]:
        try:
            return _timed(multiply, rows)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # Whatever a backward of the user's own raises on a batch, it is the batch that it cannot do.
            self._refuse(f"a batched backward raises: {_first_line(error)}", error)
            return None, 0.0

    def _judge(self, batch: Tensor, singles: Tensor, lengths: Sequence[int]) -> None:
        parts = (list(product.detach().split_with_sizes(list(lengths), dim=-1)) for product in (batch, singles))
        times = disagreement(*parts, precision=self._precision)
        if times > 1:
            self._refuse(f"a batched backward differs from single ones by {times:.1e} times what rounding allows")

    def _decide(self, seconds: float, count: int) -> None:
        if self.mode == "auto" and self.chosen != "loop":
            single, batched = self._single_seconds, seconds / count
            self.chosen = "vmap" if _GAIN * batched < single else "loop"
            self.reason = f"a vector took {batched * 1e3:.3g} ms in a batch of {count}, {single * 1e3:.3g} ms singly"

    def _refuse(self, reason: str, error: Exception | None = None) -> None:
        if self.mode == "vmap":
            raise RuntimeError(
                f'batching="vmap" was asked for, but {reason}. Use batching="auto" or "loop".'
            ) from error
        self.chosen, self.reason = "loop", reason


def _generator(tensor: Tensor) -> torch.Generator:
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


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
