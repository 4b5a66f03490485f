"""``SharedChunks``: many vectors at one point that ranks multiply together, all of them as many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._linearize.chunks import WIDTH, Chunks, Multiply, Rows
from hesse._linearize.options import Options
from hesse._ranks.group import Ranks


class SharedChunks(Chunks):
    """How rows are multiplied where each product gathers parameters, which the vectors of a batch share.

    Batches are taken without a trial, as many vectors as fit on every rank. What one rank cannot do, or finds to be
    different, none does.

    Args:
        ranks: those that multiply together.
        what: they multiply, for a sentence.
        each: bytes that a vector takes at its peak, on the rank where that is most.
        options, device, precision: as of :class:`Chunks`.
    """

    def __init__(
        self, ranks: Ranks, what: str, each: int, options: Options, device: torch.device, precision: torch.dtype
    ) -> None:
        super().__init__(options, device, precision, strict=False)
        if self.chosen is None:
            self.chosen, self.reason = "vmap", "vectors share what is gathered"
        self._ranks, self._what = ranks, what
        self._everywhere = WIDTH
        self.room.each, self.room.warned = each, not ranks.is_first

    @property
    def chunk(self) -> int:
        """How many vectors go through the graph at once, on all ranks."""
        return min(super().chunk, self._everywhere)

    def agree(self) -> None:
        """Take as many at once as fit on every rank, beside what the call that began last leaves."""
        own = super().chunk
        self._everywhere = min(self._ranks.gather(f"the room for products of {self._what}", lambda: own))

    def pieces(self, multiply: Multiply, rows: Rows, *lengths: Any, **how: Any) -> Iterator[Tensor]:
        """As of :class:`Chunks`; an error in a batch is one on all ranks."""
        count = rows.shape[0]
        if self.chosen == "vmap" and count > 1:
            # Results take more on ranks with more entries.
            self.agree()

        def together(vectors: Tensor) -> Tensor:
            if vectors.dim() == 1:
                return multiply(vectors)
            return self._ranks.together(f"a batch of products of {self._what}", lambda: multiply(vectors))

        yield from super().pieces(together, rows, *lengths, **how)

    def _batched(self, multiply: Multiply, rows: Tensor, *, look: bool) -> Tensor | None:
        # No look at the memory: PyTorch's profiler was seen to keep a collective of gloo from ending.
        return super()._batched(multiply, rows, look=False)

    def _disagreement(
        self,
        batch: Tensor,
        singles: Tensor,
        lengths: Sequence[int],
        again: Sequence[Callable[[], Tensor]],
        apart: Callable[[], Iterator[Tensor]] | None = None,
    ) -> float:
        """The largest of all ranks, which compute again together."""
        computed: list[Callable[[], Tensor]] = []
        sums: Callable[[], Iterator[Tensor]] | None = None
        for more in (None, again, *(() if apart is None else (apart,))):
            if more is again:
                computed = [_known(side()) for side in again]
            elif callable(more):
                sums = list(more()).__iter__
            found = super()._disagreement(batch, singles, lengths, computed, sums)
            times = max(self._ranks.gather(f"the comparison of products of {self._what}", lambda: found))  # noqa: B023  # called at once
            if times <= 1:
                break
        return times


def _known(product: Tensor) -> Callable[[], Tensor]:
    return lambda: product
