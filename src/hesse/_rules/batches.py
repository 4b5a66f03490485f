"""Batched backwards (``is_grads_batched``): what a rule does is done for one vector of the batch after another.

PyTorch batches them with an older vmap than torch.func's. That one knows few operators, and a torch.autograd.Function
inside of it loses its connection to the graph without a word; so the batch is taken apart before, and laid together
after. It also needs no more memory than one vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from hesse._base.batched_backward import batch, depth, is_inside, standing_for

_TRACED = torch._C._TorchDispatchModeKey.PROXY


def one_by_one(function: Callable[..., Sequence[Tensor | None]], entries: Sequence[Any]) -> Sequence[Tensor | None]:
    """``function(*entries)``, which gets no tensor that stands for a batch."""
    if not is_inside():
        return function(*entries)
    for level in range(depth(), 0, -1):
        batches = [batch(entry, level) for entry in entries]
        sizes = [len(whole) for whole in batches if whole is not None]
        if sizes:
            return _joined([one_by_one(function, _sample(entries, batches, i)) for i in range(sizes[0])], level)
    return function(*entries)


def sample_by_sample(
    function: Callable[..., Sequence[Tensor]], count: int, in_dims: Sequence[int | None], entries: Sequence[Any]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """What a rule for ``vmap`` returns, for a function that needs as much memory as there may be for one sample.

    ``in_dims``: along which dimension an entry has ``count`` samples, or None.
    """

    def sample(i: int) -> list[Any]:
        return [
            entry.select(dim, i) if isinstance(dim, int) else entry for entry, dim in zip(entries, in_dims, strict=True)
        ]

    results = [function(*sample(i)) for i in range(count)]
    stacked = tuple([torch.stack(parts) for parts in zip(*results, strict=True)])
    return stacked, (0,) * len(stacked)


def has_values(tensor: Tensor) -> bool:
    """Whether Python may decide by the values of a tensor: it is no batch, no stand-in, and not traced."""
    if tensor.is_meta or isinstance(tensor, FakeTensor) or torch._C._get_dispatch_mode(_TRACED) is not None:
        return False
    if is_inside() and any([batch(tensor, level) is not None for level in range(1, depth() + 1)]):
        return False
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        if torch._C._functorch.is_batchedtensor(tensor):
            return False
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return not isinstance(tensor, FakeTensor)


def samples(tensor: Tensor) -> Tensor:
    """All samples of the batches of ``vmap`` that a tensor stands for; itself, where there is none."""
    while torch._C._functorch.is_batchedtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def have_values(*tensors: Tensor) -> bool:
    """Whether Python may decide by the values of some tensors, or of all samples of the batches that they stand for."""
    return all([has_values(samples(entry)) for entry in tensors])


def _sample(entries: Sequence[Any], batches: Sequence[Tensor | None], i: int) -> list[Any]:
    return [entry if whole is None else whole[i] for entry, whole in zip(entries, batches, strict=True)]


def _joined(samples: Sequence[Sequence[Tensor | None]], level: int) -> list[Tensor | None]:
    return [
        None if any(entry is None for entry in entries) else standing_for(torch.stack(entries), level)
        for entries in zip(*samples, strict=True)
    ]
