"""The vector space of a structure: structured vectors, flat vectors, and rows of flat vectors.

Flat order is the order of leaves, each in C order. A complex leaf counts as its real and imaginary parts
(``torch.view_as_real``), so flat vectors are always real. They have at least float32; casts happen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from hesse._base.several_ranks import is_dtensor
from hesse._base.trees import Spec, path_name
from hesse._base.vectors import check_vector


class Space:
    """Vectors structured like given leaves.

    Attributes:
        size: length of a flat vector.
        dtype: real dtype of flat vectors, at least float32.
        device: device of flat vectors, that of the first leaf.
        whole_size: that of a whole one, of which this process may hold a part.
    """

    def __init__(self, leaves: Sequence[Tensor], spec: Spec, name: str) -> None:
        self.leaves: list[Tensor] = []
        self.spec = spec
        self.name = name
        self.lengths: list[int] = []
        self.dtype, self.device = torch.float32, leaves[0].device
        for leaf in leaves:
            dtype = leaf.dtype
            self.leaves.append(leaf.detach())
            self.lengths.append(2 * leaf.numel() if dtype.is_complex else leaf.numel())
            if dtype != self.dtype:
                self.dtype = torch.promote_types(self.dtype, dtype.to_real())
        self.size = self.whole_size = sum(self.lengths)
        # Dense real leaves of the flat vectors' own dtype and device need no cast.
        self._is_plain = True
        for leaf in leaves:
            if (
                leaf.dtype != self.dtype
                or leaf.device != self.device
                or leaf.layout != torch.strided
                or (type(leaf) is not Tensor and is_dtensor(leaf))
            ):
                self._is_plain = False
        # A lone vector is flat as it is: views of it would take as long as a small product.
        self._is_vector = self._is_plain and len(leaves) == 1 and leaves[0].dim() == 1

    def part(self, positions: Sequence[int], spec: Spec, name: str) -> Space:
        """The space of some of its leaves."""
        return Space([self.leaves[position] for position in positions], spec, name)

    def check(self, v: Any) -> list[Tensor]:
        """The entries of a structured vector in flat order, or one sentence that names what does not fit."""
        return check_vector(self.name, v, self.leaves, self.spec)

    def holds(self, v: Tensor) -> bool:
        """Whether a lone tensor is a structured vector; else it is flat, or a matrix of columns."""
        if self.spec.paths != ((),):
            return False
        (leaf,) = self.leaves
        # A float32 vector for a bfloat16 input is flat: rounding it to the input's dtype would lose its digits.
        return v.shape == leaf.shape and (v.dim() != 1 or leaf.dtype in (v.dtype, self.dtype) or leaf.dtype.is_complex)

    def split(self, rows: Tensor) -> list[Tensor]:
        """Flat vectors in the last dimension as leaves, any dimensions before it kept: (…, n) to (…, *shape)."""
        if self._is_vector:
            return [rows]
        parts = rows.split_with_sizes(self.lengths, dim=-1)
        if self._is_plain:
            batch = rows.shape[:-1]
            return [part.reshape(batch + leaf.shape) for part, leaf in zip(parts, self.leaves, strict=True)]
        self._require_strided()
        return [self._leaf(part, leaf) for part, leaf in zip(parts, self.leaves, strict=True)]

    def _leaf(self, part: Tensor, leaf: Tensor) -> Tensor:
        batch = part.shape[:-1]
        if leaf.dtype.is_complex:
            pairs = part.to(leaf.device, leaf.dtype.to_real()).reshape((*batch, *leaf.shape, 2))
            return torch.view_as_complex(pairs.contiguous())
        return part.to(leaf.device, leaf.dtype).reshape(batch + leaf.shape)

    def join(self, leaves: Sequence[Tensor], batch: int = 0) -> Tensor:
        """The inverse of ``split`` for leaves with ``batch`` dimensions in front.

        Several leaves are joined in memory of their own; one alone may stay where it is.
        """
        if self._is_vector:
            return leaves[0]
        if self._is_plain:
            parts = [leaf.flatten(batch) if leaf.dim() > batch else leaf.unsqueeze(-1) for leaf in leaves]
        else:
            self._require_strided()
            parts = [
                (torch.view_as_real(leaf) if leaf.dtype.is_complex else leaf)
                .to(self.device, self.dtype)
                .reshape((*leaf.shape[:batch], length))
                for leaf, length in zip(leaves, self.lengths, strict=True)
            ]
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    def _require_strided(self) -> None:
        for path, leaf in zip(self.spec.paths, self.leaves, strict=True):
            if leaf.layout != torch.strided or is_dtensor(leaf):
                place = path_name(path) or "the Tensor"
                what = "is a DTensor" if is_dtensor(leaf) else f"has layout {leaf.layout}"
                raise TypeError(
                    f"Flat vectors of the {self.name} need dense tensors but {place} {what}."
                    " Multiply structured vectors instead."
                )

    def zeros(self) -> list[Tensor]:
        """The zero vector as leaves to add to, in at least float32."""
        return [torch.zeros_like(leaf, dtype=torch.promote_types(leaf.dtype, torch.float32)) for leaf in self.leaves]

    def flatten(self, tree: Any) -> Tensor:
        """A structured vector as a flat one, of shape (n,), dtype ``self.dtype``."""
        return self.join(self.check(tree))

    def unflatten(self, vector: Tensor) -> Any:
        """A flat vector of shape (n,) as a structured one, in the dtypes of the leaves."""
        if not isinstance(vector, Tensor) or vector.shape != (self.size,):
            found = tuple(vector.shape) if isinstance(vector, Tensor) else type(vector)
            raise ValueError(f"The vector given to unflatten should have shape ({self.size},) but has {found}.")
        return self.spec.rebuild(self.split(vector))


class Splits(Protocol):
    """Makes leaves of rows of flat vectors, as a space does."""

    def split(self, rows: Tensor) -> list[Tensor]:
        """Rows (…, n) as leaves (…, *shape)."""
