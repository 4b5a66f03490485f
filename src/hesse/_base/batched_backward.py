"""Batched backwards (``is_grads_batched``): the whole batch that a tensor stands for there, and the way out of them.

PyTorch batches them with an older vmap than torch.func's, and has no public names for any of this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

# The key is in a thread's set inside of a batched backward.
_BATCHED = torch._C._dispatch_key_parse("VmapMode")
_is_included = torch._C._dispatch_tls_is_dispatch_key_included


def is_inside() -> bool:
    """Whether a batched backward is under way."""
    return bool(_is_included(_BATCHED))


def depth() -> int:
    """How many batched backwards are around."""
    found: int = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    return found


def batch(entry: Any, level: int) -> Tensor | None:
    """The whole batch, one sample a row, that an entry stands for at that level; None if it stands for none."""
    if not isinstance(entry, Tensor):
        return None
    # A tensor that is no batch is expanded to the size that is given, here to nothing.
    found: Tensor = torch._remove_batch_dim(entry, level, 0, 0)
    return found if len(found) else None


def standing_for(batch: Tensor, level: int) -> Tensor:
    """The inverse: a tensor that stands for a batch."""
    found: Tensor = torch._add_batch_dim(batch, 0, level)
    return found


def as_a_whole(
    function: Callable[[Sequence[Tensor], bool], Sequence[Tensor | None]], entries: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    """``function(entries, False)``; inside of a batched backward ``function(batches, True)``, called outside of it.

    There each entry is a batch, one sample a row, and each result too.
    """
    if not is_inside():
        return function(entries, False)
    levels = depth()
    for level in range(levels, 0, -1):
        batches = [batch(entry, level) for entry in entries]
        sizes = [len(found) for found in batches if found is not None]
        if sizes:
            rows = [
                entry.expand(sizes[0], *entry.shape) if found is None else found
                for entry, found in zip(entries, batches, strict=True)
            ]
            with _outside(levels):
                results = function(rows, True)
            return [None if result is None else standing_for(result, level) for result in results]
    with _outside(levels):
        return function(entries, False)


@contextlib.contextmanager
def _outside(levels: int) -> Iterator[None]:
    """Within, no batched backward is under way: random numbers may be drawn, and another one may begin."""
    for _ in range(levels):
        torch._C._vmapmode_decrement_nesting()
    try:
        yield
    finally:
        for _ in range(levels):
            torch._C._vmapmode_increment_nesting()
