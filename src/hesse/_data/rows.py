"""The rows of a batch: its samples, along the first dimension of its tensors."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hesse._autograd.captured import reach
from hesse._base import trees


def map_batch(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """``batch`` with ``function`` applied to its tensors, and everything else as it was.

    Mappings of any kind keep theirs, such as the BatchEncoding of a tokenizer.
    """
    return trees.map_leaves(functools.partial(_mapped, function), batch)


def _mapped(function: Callable[[Tensor], Tensor], leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return function(leaf)
    if not isinstance(leaf, Mapping):
        return leaf
    fresh: Any = copy.copy(leaf)
    for key, entry in leaf.items():
        changed = map_batch(function, entry)
        if changed is not entry:
            fresh[key] = changed
    return fresh


def replaced(batch: Any, key: Hashable, tensor: Tensor) -> Any:
    """``batch`` with another tensor at an index or key."""
    if isinstance(batch, tuple | list):
        entries = list(batch)
        entries[key] = tensor  # type: ignore[call-overload]  # the key of a sequence is an index
        return tuple(entries)
    fresh: Any = copy.copy(batch)
    fresh[key] = tensor
    return fresh


def tensors(batch: Any) -> Iterator[Tensor]:
    """The tensors of a batch, in flat order; those that its objects hold too, such as a graph's."""
    for leaf in _leaves(batch):
        if isinstance(leaf, Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__"):
            yield from (value for _, value in reach(leaf) if isinstance(value, Tensor))


def count(batch: Any) -> int | None:
    """How many rows a batch has: those of its first tensor that has any; None where none has.

    What the rows of an object are is its own matter.
    """
    return next((leaf.shape[0] for leaf in _leaves(batch) if isinstance(leaf, Tensor) and leaf.dim() > 0), None)


def _leaves(batch: Any) -> Iterator[Any]:
    for leaf in trees.leaves(batch):
        # Whether it is a mapping takes longer to ask.
        if isinstance(leaf, Tensor) or not isinstance(leaf, Mapping):
            yield leaf
            continue
        for entry in leaf.values():
            yield from _leaves(entry)


def part(batch: Any, start: int, stop: int) -> Any:
    """Rows ``start`` to ``stop`` of a batch: of each tensor that has as many rows as the batch; others are kept whole.

    Whether the loss of a batch is made up of that of its parts is for the caller to find out.
    """
    rows = count(batch)

    def cut(tensor: Tensor) -> Tensor:
        return tensor[start:stop] if tensor.dim() > 0 and tensor.shape[0] == rows else tensor

    return map_batch(cut, batch)


def joined(first: Any, second: Any) -> Any:
    """The rows of two batches in one; None where they do not fit together, as sequences of other lengths do not.

    What has no rows, such as a batch's own factor, must be the same in both.
    """
    counts = count(first), count(second)
    (leaves, spec), (others, other_spec) = trees.flatten(first), trees.flatten(second)
    if None in counts or spec.paths != other_spec.paths:
        return None
    fresh: list[Any] = []
    for leaf, other in zip(leaves, others, strict=True):
        both: Any = other
        if isinstance(leaf, Tensor) and isinstance(other, Tensor):
            have = [
                tensor.dim() > 0 and len(tensor) == rows for tensor, rows in zip((leaf, other), counts, strict=True)
            ]
            if have[0] != have[1] or leaf.shape[have[0] :] != other.shape[have[1] :]:
                return None
            if not have[0] and not torch.equal(leaf, other):
                return None
            both = torch.cat([leaf, other]) if have[0] else other
        elif isinstance(leaf, Mapping) and isinstance(other, Mapping) and leaf.keys() == other.keys():
            both = copy.copy(other)
            for key, entry in other.items():
                both[key] = joined(leaf[key], entry)
                if both[key] is None:
                    return None
        elif leaf is not other and not (isinstance(leaf, int | float | str) and leaf == other):
            return None
        fresh.append(both)
    return other_spec.rebuild(fresh)


def microbatches(batch: Any, most: int | None) -> Iterator[tuple[int, Any]]:
    """A batch in microbatches of at most so many rows, each after the number of its first row; whole for None."""
    number = count(batch)
    if most is None or number is None or number <= most:
        yield 0, batch
        return
    for start in range(0, number, most):
        yield start, part(batch, start, min(start + most, number))
