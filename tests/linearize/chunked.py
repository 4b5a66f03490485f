"""Rows of vectors multiplied as an operator at a point multiplies them, by any linear map."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import torch
from torch import Tensor

from hesse._linearize.chunks import Chunks, Multiply, Pays
from hesse._linearize.options import Options

CPU = torch.device("cpu")


class Chunked:
    """``Chunks`` for one operator.

    Attributes:
        chunks: what is tested.
        compared: what was compared with single products at the present point.
    """

    def __init__(self, batching: Literal["auto", "loop", "vmap"] = "auto", fixed: int | None = None) -> None:
        self.chunks = Chunks(Options(batching=batching), CPU, torch.float32)
        self.compared: set[Hashable] = set()
        self._fixed = fixed

    def multiply(
        self,
        multiply: Multiply,
        rows: Tensor,
        lengths: Sequence[int] = (3,),
        *,
        key: Hashable = "term",
        pays: Pays = lambda seconds, past: True,
    ) -> Tensor:
        """All products, whose leaves have these lengths."""
        pieces = list(
            self.chunks.pieces(multiply, rows, lengths, key=key, compared=self.compared, fixed=self._fixed, pays=pays)
        )
        return torch.cat(pieces) if pieces else rows.new_zeros(0, sum(lengths))
