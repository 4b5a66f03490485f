"""Many vectors at one point: one by one, or in batched backwards, whichever is measured faster and is right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from hesse.functional.agreement import relative_difference, tolerance

Mode = Literal["auto", "loop", "vmap"]

Multiply = Callable[[Tensor], Tensor]
"""A linear map of rows: one vector of shape (n,) to (m,), or a batch of them (k, n) to (k, m)."""

_TRIAL = 4
_CHUNK = 16
# A batch that gains less than this is not worth the memory it takes.
_GAIN = 1.05


class Batching:
    """How rows of vectors are multiplied: ``mode`` as asked for, and for ``"auto"`` what a trial decided.

    The trial multiplies a few random vectors both ways; the user's own may be mostly zeros. Batching is taken
    when it raises nothing, agrees, and is faster, and kept when the first whole chunk is faster too; ``reason``
    says which.
    """

    def __init__(self, mode: Mode = "auto") -> None:
        if mode not in ("auto", "loop", "vmap"):
            raise ValueError(f'batching should be "auto", "loop" or "vmap" but is {mode!r}.')
        self.mode: Mode = mode
        self.chosen: Literal["loop", "vmap"] | None = None if mode == "auto" else mode
        self.reason = "not measured yet" if mode == "auto" else "as asked for"
        self._tried = False
        # Seconds a vector singly, while the first whole chunk is still to be measured against it.
        self._single_seconds: float | None = None

    def inherit(self, earlier: Batching) -> None:
        """Take over what a trial at another point of the same function decided; a loop needs no further trial.

        A batched backward is tried again, since whether it is right may depend on the point.
        """
        if self.mode == "auto" and earlier.chosen == "loop":
            self.chosen, self.reason, self._tried = "loop", earlier.reason, True

    @property
    def chunk(self) -> int:
        """How many vectors go through the graph at once."""
        return _CHUNK if self.chosen == "vmap" else 1

    def multiply(self, multiply: Multiply, rows: Tensor, length: int) -> Tensor:
        """``multiply`` of each row of ``rows`` (k, n), as (k, ``length``)."""
        products: Tensor | None = None
        start = 0
        for piece in self._pieces(multiply, rows):
            if piece.requires_grad:
                # Writing into one matrix would make the graph of every product pass through the others' copies.
                return torch.cat([piece, *self._pieces(multiply, rows[piece.shape[0] :])])
            if products is None:
                products = piece.new_empty(rows.shape[0], length)
            products[start : start + piece.shape[0]] = piece
            start += piece.shape[0]
        return rows.new_zeros(0, length) if products is None else products

    def _pieces(self, multiply: Multiply, rows: Tensor) -> Iterator[Tensor]:
        """Products of consecutive rows, as many at a time as go through the graph at once."""
        count, start = rows.shape[0], 0
        if not self._tried and (count >= _CHUNK if self.mode == "auto" else self.mode == "vmap" and count > 1):
            self._try(multiply, rows)
        while start < count:
            chunk = rows[start : start + self.chunk]
            if len(chunk) == _CHUNK and self._single_seconds is not None:
                yield self._confirm(multiply, chunk, self._single_seconds)
            else:
                # A chunk of one goes the plain way: a batch of one costs more and gives nothing.
                yield multiply(chunk) if len(chunk) > 1 else multiply(chunk[0]).unsqueeze(0)
            start += len(chunk)

    def _try(self, multiply: Multiply, rows: Tensor) -> None:
        generator = torch.Generator(rows.device).manual_seed(0)
        trial = torch.randn(_TRIAL, rows.shape[1], dtype=rows.dtype, device=rows.device, generator=generator)
        timed = [_timed(multiply, row) for row in trial]
        singles = torch.stack([product for product, _ in timed])
        # The fastest: the first product of a process pays for what PyTorch loads at it.
        single = min(seconds for _, seconds in timed)
        try:
            batch, seconds = _timed(multiply, trial)
            if _TRIAL * single < seconds < 4 * _TRIAL * single:
                seconds = min(seconds, _timed(multiply, trial)[1])
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self._refuse(f"a batched backward raises: {_first_line(error)}", error)
            return
        difference = relative_difference(batch, singles)
        if not difference <= tolerance(singles.dtype):
            self._refuse(f"a batched backward differs from single ones by {difference:.1e} relative")
            return
        self._tried = True
        if self.mode == "auto":
            self._decide(single, seconds / _TRIAL, _TRIAL)

    def _refuse(self, reason: str, error: RuntimeError | None = None) -> None:
        if self.mode == "vmap":
            raise RuntimeError(
                f'batching="vmap" was asked for, but {reason}. Use batching="auto" or "loop".'
            ) from error
        self.chosen, self.reason, self._tried = "loop", reason, True

    def _confirm(self, multiply: Multiply, chunk: Tensor, single: float) -> Tensor:
        """The first whole chunk, which may be slower a vector than the small batch of the trial was."""
        product, seconds = _timed(multiply, chunk)
        self._decide(single, seconds / len(chunk), len(chunk))
        self._single_seconds = None
        return product

    def _decide(self, single: float, batched: float, count: int) -> None:
        self.chosen = "vmap" if _GAIN * batched < single else "loop"
        self._single_seconds = single
        self.reason = f"a vector took {batched * 1e3:.3g} ms in a batch of {count}, {single * 1e3:.3g} ms singly"


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
