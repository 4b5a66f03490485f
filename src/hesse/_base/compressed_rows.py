"""``compressed_rows``: a sparse matrix in compressed rows."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor


def compressed_rows(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The matrix whose row i holds ``values[starts[i]:starts[i + 1]]`` in ``columns`` of the same span, unchecked."""
    _warn_in_silence()
    return torch.sparse_csr_tensor(
        starts, columns, values, shape, dtype=values.dtype, device=values.device, check_invariants=False
    )


@functools.cache
def _warn_in_silence() -> None:
    """PyTorch says once in a process that the layout is new to it, and that what it makes itself is not checked."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        warnings.filterwarnings("ignore", "Sparse invariant checks are implicitly disabled")
        indices = torch.zeros(1, dtype=torch.int64, device="cpu")
        torch.sparse_csr_tensor(indices, indices[:0], torch.zeros(0, device="cpu"), (0, 0), device="cpu")
