"""The entries of a structure as named tensors in a safetensors file, and back.

A name is the path of keys joined by dots (``layer.weight``, ``0``), and ``value`` for a lone tensor. The format
has no complex128: such an entry is stored as its real and imaginary parts, in a last dimension of two.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hesse._base import trees
from hesse._base.several_ranks import is_dtensor
from hesse._cli.failures import CommandError, sentence


def names(inputs: Any) -> list[str]:
    """A name for each leaf, in flat order."""
    found = [trees.dotted_name(path) for path in trees.flatten(inputs)[1].paths]
    name, times = Counter(found).most_common(1)[0]
    if times > 1:
        raise CommandError(f"The inputs cannot be named in a file: {times} of them would be called {name!r}.")
    return found


def to_entries(tree: Any) -> dict[str, Tensor]:
    """The leaves of a structured vector by name, each with memory of its own, as the format asks.

    Of DTensors these are whole ones, on every rank: then this is a collective call.
    """
    leaves, _ = trees.flatten(tree)
    return {name: _storable(leaf).contiguous().clone() for name, leaf in zip(names(tree), leaves, strict=True)}


def _storable(leaf: Tensor) -> Tensor:
    if is_dtensor(leaf):
        leaf = leaf.full_tensor()  # type: ignore[attr-defined]  # a DTensor
    # The conjugate of a tensor is lazy, and its bytes are not what it says.
    leaf = leaf.detach().cpu().resolve_conj().resolve_neg()
    return torch.view_as_real(leaf) if leaf.dtype == torch.complex128 else leaf


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name."""
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise CommandError(f"The vector file {path} does not exist.") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise CommandError(f"The vector file {path} is no readable safetensors file: {sentence(error)}") from error


def from_entries(entries: dict[str, Tensor], inputs: Any, path: Path) -> Any:
    """The entries read from ``path`` as a vector structured like the inputs, in their dtypes and on their devices."""
    leaves, spec = trees.flatten(inputs)
    expected = names(inputs)
    for name in expected:
        if name not in entries:
            raise CommandError(f"The vector file {path} has no entry {name!r}, which the inputs have.")
    for name in entries:
        if name not in expected:
            raise CommandError(f"The vector file {path} has an entry {name!r}, which the inputs do not have.")
    return spec.rebuild([_fitted(entries[name], leaf, name, path) for name, leaf in zip(expected, leaves, strict=True)])


def _fitted(entry: Tensor, leaf: Tensor, name: str, path: Path) -> Tensor:
    if leaf.dtype.is_complex and entry.dtype.is_floating_point and entry.shape == (*leaf.shape, 2):
        entry = torch.view_as_complex(entry if entry.dtype == torch.float64 else entry.float())
    if entry.shape != leaf.shape:
        raise CommandError(
            f"Entry {name!r} of the vector file {path} should have shape {tuple(leaf.shape)} but has"
            f" {tuple(entry.shape)}."
        )
    if entry.dtype.is_complex and not leaf.dtype.is_complex:
        raise CommandError(f"Entry {name!r} of the vector file {path} should be real but has dtype {entry.dtype}.")
    return entry.to(device=leaf.device, dtype=leaf.dtype)
