"""Tensors that lie within the memory of others, and copies of them that do so as well; tensors in that of arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class _Extent(NamedTuple):
    """Where a tensor lies in which memory, in elements."""

    memory: int
    start: int
    end: int
    dtype: torch.dtype


class Aliases:
    """Which of some tensors lie within others of them.

    Args:
        tensors: all of them.
        places: those that are looked at.

    Attributes:
        apart: the places of those that share memory in another way, of which copies share none.
    """

    def __init__(self, tensors: Sequence[Tensor], places: Iterable[int]) -> None:
        self.apart: set[int] = set()
        self._within: dict[int, int] = {}
        self._offsets: dict[int, int] = {}
        extents = {place: extent for place in places if (extent := _extent(tensors[place])) is not None}
        # Those that hold others come before these.
        order = sorted(extents, key=lambda place: (*extents[place][:2], -extents[place].end))
        holder: int | None = None
        for place in order:
            here = extents[place]
            there = None if holder is None else extents[holder]
            if holder is None or there is None or here.memory != there.memory or here.start >= there.end:
                holder = place
                continue
            if here.end > there.end or here.dtype != there.dtype or not tensors[holder].is_contiguous():
                self.apart |= {holder, place}
                continue
            self._within[place], self._offsets[place] = holder, here.start - there.start

    def together(self, places: Iterable[int]) -> list[int]:
        """The places, and those of all tensors that share memory with them."""
        wanted = dict.fromkeys(places)
        holders = {self._within.get(place, place) for place in wanted}
        more = [place for place, holder in self._within.items() if holder in holders]
        return list(dict.fromkeys([*wanted, *holders.intersection(self._within.values()), *more]))

    def copies(self, tensors: Sequence[Tensor], places: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
        """Copies of the tensors in these places, which are together: by place."""
        made = {place: tensors[place].clone() for place in places if place not in self._within}
        yield from made.items()
        for place in places:
            holder = self._within.get(place)
            if holder is not None:
                like = tensors[place]
                yield place, made[holder].as_strided(like.shape, like.stride(), self._offsets[place])


def _extent(tensor: Tensor) -> _Extent | None:
    if type(tensor) is not Tensor or tensor.layout is not torch.strided or not tensor.numel() or tensor.is_meta:
        return None
    start = int(tensor.storage_offset())
    last = sum([(length - 1) * int(stride) for length, stride in zip(tensor.shape, tensor.stride(), strict=True)])
    return _Extent(tensor.untyped_storage().data_ptr(), start, start + last + 1, tensor.dtype)


def tensor_in(value: Any) -> Tensor | None:
    """A tensor itself, or one in the memory of an array that may be written into; None of anything else."""
    if not isinstance(value, np.ndarray) or not value.flags.writeable:
        return value if isinstance(value, Tensor) else None
    with contextlib.suppress(TypeError, ValueError):  # dtypes and strides that PyTorch does not have
        return torch.from_numpy(value)
    return None
