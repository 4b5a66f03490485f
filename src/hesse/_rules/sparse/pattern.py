r"""The places of a sparse tensor, and the two linear maps that belong to them.

*Scattering* makes a sparse tensor of values, *gathering* reads the values at the places from any tensor of that size;
each is the transpose of the other, so that either is the derivative of the other, any number of times. PyTorch's own
maps lose the connection in their second derivative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """Where the values of a sparse tensor stand: ``indices`` has one column for each, in the order of the values.

    ``compressed`` are the two arrays of indices of a matrix in compressed rows or columns.
    """

    layout: torch.layout
    size: torch.Size
    indices: Tensor
    compressed: tuple[Tensor, Tensor] | None = None

    def scatter(self, values: Tensor) -> Tensor:
        """The sparse tensor with these values; values at one place count together."""
        result: Tensor = _Scatter.apply(values, self)  # type: ignore[no-untyped-call]  # no types there
        return result

    def gather(self, tensor: Tensor) -> Tensor:
        """The numbers that a tensor of any layout has at the places."""
        if tensor.layout is torch.strided:
            return tensor[tuple(self.indices)]
        result: Tensor = _Gather.apply(tensor, self)  # type: ignore[no-untyped-call]  # no types there
        return result


def coordinates(indices: Tensor, size: Sequence[int]) -> Pattern:
    """The pattern of a tensor in coordinates (COO)."""
    return Pattern(torch.sparse_coo, torch.Size(size), indices)


def compressed(layout: torch.layout, outer: Tensor, inner: Tensor, size: Sequence[int]) -> Pattern:
    """The pattern of a matrix in compressed rows (CSR) or columns (CSC)."""
    if layout not in (torch.sparse_csr, torch.sparse_csc) or outer.dim() != 1:
        raise NotImplementedError(
            "A second derivative through a compressed sparse tensor wants a matrix without batches in the layout"
            f" sparse_csr or sparse_csc, but this one is {str(layout).removeprefix('torch.')} of size {tuple(size)}."
            " Use the layout sparse_coo."
        )
    counts = outer.diff()
    lines = torch.repeat_interleave(torch.arange(len(counts), device=outer.device), counts.long())
    pair = (lines, inner.long()) if layout is torch.sparse_csr else (inner.long(), lines)
    return Pattern(layout, torch.Size(size), torch.stack(pair), (outer, inner))


def pattern_of(matrix: Tensor) -> Pattern:
    """The pattern of a matrix in compressed rows or columns."""
    if matrix.layout is torch.sparse_csr:
        return compressed(matrix.layout, matrix.crow_indices(), matrix.col_indices(), matrix.shape)
    if matrix.layout is torch.sparse_csc:
        return compressed(matrix.layout, matrix.ccol_indices(), matrix.row_indices(), matrix.shape)
    return compressed(matrix.layout, matrix.new_zeros(0), matrix.new_zeros(0), matrix.shape)


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(values: Tensor, pattern: Pattern) -> Tensor:
        if pattern.compressed is None:
            return torch.sparse_coo_tensor(
                pattern.indices, values, pattern.size, device=values.device, check_invariants=False
            )
        return torch.sparse_compressed_tensor(
            *pattern.compressed,
            values,
            pattern.size,
            layout=pattern.layout,
            device=values.device,
            check_invariants=False,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.pattern = inputs[1]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return ctx.pattern.gather(cotangent), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(tensor: Tensor, pattern: Pattern) -> Tensor:
        held: Tensor = tensor.to_sparse(layout=torch.sparse_coo).coalesce()
        values = held.values()
        if not len(values):
            return values.new_zeros((pattern.indices.shape[1], *values.shape[1:]))
        keys, wanted = (_flat(indices, held.shape) for indices in (held.indices(), pattern.indices))
        places = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        found = (keys[places] == wanted).reshape(-1, *[1] * (values.dim() - 1))
        return torch.where(found, values[places], 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.pattern = inputs[1]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return ctx.pattern.scatter(cotangent), None


def _flat(indices: Tensor, size: torch.Size) -> Tensor:
    """One number for each place, growing in C order."""
    flat = torch.zeros_like(indices[0])
    for line, length in zip(indices, size, strict=False):
        flat = flat * length + line
    return flat
