r"""Sparse tensors made of values, and values read from them: linear maps, each the transpose of the other.

The derivative of a function of :math:`S(v)` by the values is the derivative by the matrix at the places of the values.
PyTorch's gradient is that, but without a connection to what it is made of: second derivatives by way of
``torch.sparse_coo_tensor``, and by way of ``values()`` of compressed matrices, are zero, without a word.

Source: https://docs.pytorch.org/docs/stable/sparse.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._rules.rule import rule
from hesse._rules.sparse.pattern import compressed, coordinates, pattern_of


@rule("aten::_sparse_coo_tensor_with_dims_and_tensors")
def coo_tensor(
    sparse_dim: int, dense_dim: int, size: Sequence[int], indices: Tensor, values: Tensor, *options: Any
) -> Tensor:
    """The tensor that has the values at the indices, in coordinates."""
    return coordinates(indices, size).scatter(values)


@rule("aten::sparse_compressed_tensor.comp_plain_value_size")
def compressed_tensor(
    outer: Tensor, inner: Tensor, values: Tensor, size: Sequence[int], dtype: Any, layout: torch.layout, *options: Any
) -> Tensor:
    """The matrix that has the values at the indices, in compressed rows or columns."""
    return compressed(layout, outer, inner, size).scatter(values)


def _is_compressed_variable(arguments: Sequence[Any]) -> bool:
    # PyTorch itself asks constants for their values, to change them.
    (tensor,) = arguments
    return tensor.requires_grad and tensor.layout in _COMPRESSED


_COMPRESSED = {torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc}


@rule("aten::values", where=_is_compressed_variable)
def values(matrix: Tensor) -> Tensor:
    """The values of a compressed matrix, in its order."""
    return pattern_of(matrix).gather(matrix)


@rule("aten::_sparse_mask_projection")
def mask_projection(tensor: Tensor, mask: Tensor, accumulate_matches: bool) -> Tensor:
    """The tensor at the places that the mask has too; times how often it has them, if matches accumulate."""
    pattern = coordinates(tensor.detach().coalesce().indices(), tensor.shape)
    held = torch.ones_like(mask.detach()._values())
    matches = pattern.gather(coordinates(mask._indices(), mask.shape).scatter(held))
    return pattern.scatter(pattern.gather(tensor) * (matches if accumulate_matches else matches != 0))
