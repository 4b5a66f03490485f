r"""``torch.as_strided_scatter``: a tensor with some of its entries, by places in its memory, replaced by others.

It is linear: the derivative by the tensor is the cotangent where nothing was replaced, and by the source it is the
cotangent at the places. PyTorch's gradient by the tensor is another: wrong, without a word, in the first derivative.

Source: https://docs.pytorch.org/docs/stable/generated/torch.as_strided_scatter.html
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hesse._rules.rule import rule


@rule("aten::as_strided_scatter")
def as_strided_scatter(
    tensor: Tensor, source: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None
) -> Tensor:
    """The tensor with ``source`` at the places of size, stride and offset; PyTorch wants it contiguous."""
    memory = torch.arange(tensor.numel(), device=tensor.device)
    offset = 0 if storage_offset is None else storage_offset - tensor.storage_offset()
    places = memory.as_strided(size, stride, offset).reshape(-1)
    return tensor.reshape(-1).index_put((places,), source.reshape(-1)).reshape(tensor.shape)
