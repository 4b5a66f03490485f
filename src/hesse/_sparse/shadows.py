"""Which sets the entries of tensors have, kept by the memory of the tensors.

Tensors that share memory share entries. So views, and writes through them, need no treatment of their own.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import torch
from torch import Tensor, UntypedStorage

from hesse._sparse.sets import Dependence, Sets, Table


class _Shadow(NamedTuple):
    """The rows of a table for a storage, one for each number of ``width`` bytes; a complex entry is two numbers."""

    rows: Tensor
    table: Table
    width: int


class Shadows:
    """The sets of all storages that have some, forgotten with the storages."""

    def __init__(self, sets: Sets) -> None:
        self._sets = sets
        self._shadows: weakref.WeakKeyDictionary[UntypedStorage, _Shadow] = weakref.WeakKeyDictionary()

    def read(self, tensor: Tensor) -> Dependence | None:
        """The sets of a tensor's entries, of a complex entry those of both parts; None if all are empty."""
        storage = storage_of(tensor)
        shadow = None if storage is None else self._shadows.get(storage)
        if shadow is None:
            return None
        rows = _entries(shadow, tensor)
        if not tensor.is_complex():
            return Dependence(rows, shadow.table)
        parts = [Dependence(part, shadow.table) for part in rows.unbind(-1)]
        return self._sets.union(parts, tensor.shape)

    def write(self, tensor: Tensor, sets: Dependence | None) -> None:
        """Give a tensor's entries these sets, or none."""
        if (storage := storage_of(tensor)) is None:
            return
        width = tensor.dtype.to_real().itemsize if tensor.is_complex() else tensor.itemsize
        shadow = self._shadows.get(storage)
        if sets is None or not sets.rows.any():
            if shadow is None:
                return
            if tensor.numel() * tensor.itemsize == storage.nbytes():
                del self._shadows[storage]
                return
            rows = torch.zeros(tensor.shape, dtype=torch.int32, device=tensor.device)
            sets = Dependence(rows, shadow.table)
        if shadow is None or tensor.numel() * tensor.itemsize == storage.nbytes():
            whole, table = torch.zeros(storage.nbytes() // width, dtype=torch.int32, device=tensor.device), sets.table
            rows = sets.rows
        else:
            (whole, rows), table = self._sets.join([Dependence(shadow.rows, shadow.table), sets])
            # Rows are never changed in place: other storages may have the same.
            whole = whole.clone()
        made = _Shadow(whole, table, width)
        _entries(made, tensor).copy_(rows.unsqueeze(-1) if tensor.is_complex() else rows)
        self._shadows[storage] = made


def storage_of(tensor: Tensor) -> UntypedStorage | None:
    """The memory that holds a tensor's entries; None for another kind of tensor."""
    kinds = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
    if type(tensor) not in kinds or tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta:
        return None
    return tensor.untyped_storage()


def _entries(shadow: _Shadow, tensor: Tensor) -> Tensor:
    size, stride, offset = tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
    real = tensor.dtype.to_real() if tensor.is_complex() else tensor.dtype
    if real.itemsize != shadow.width:
        raise NotImplementedError(
            f"The sparsity pattern cannot be followed through memory that is read as {tensor.dtype} and was written"
            f" with numbers of {shadow.width} bytes. Give the pattern."
        )
    if tensor.is_complex():
        return shadow.rows.as_strided((*size, 2), (*[2 * step for step in stride], 1), 2 * offset)
    return shadow.rows.as_strided(size, stride, offset)
