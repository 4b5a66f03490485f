"""Structured vectors checked against the structure they must match, in one sentence.

The texts of the errors that PyTorch raises too are PyTorch's, since programs match them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hesse._base import trees
from hesse._base.several_ranks import is_dtensor
from hesse._base.trees import Path, Spec


def check_vector(name: str, v: Any, leaves: Sequence[Tensor], spec: Spec) -> list[Tensor]:
    """The entries of ``v`` in the flat order of the structure it must match, or one sentence that says why not."""
    entries, v_spec = trees.flatten(v)
    check_tensors(entries, v_spec, "v", name)
    entries = _aligned(entries, v_spec, leaves, spec)
    for path, entry, leaf in zip(spec.paths, entries, leaves, strict=True):
        if entry.size() != leaf.size():
            raise RuntimeError(f"{_entry(path)}v has invalid size: should be {leaf.size()} but got {entry.size()}.")
        if is_dtensor(entry) != is_dtensor(leaf):
            wanted = "a DTensor" if is_dtensor(leaf) else "a plain tensor"
            raise RuntimeError(f"{_entry(path)}v has an invalid type: should be {wanted} but got {type(entry)}.")
        if entry.device != leaf.device:
            raise RuntimeError(
                f"{_entry(path)}v is on the wrong device: should be {leaf.device} but got {entry.device}."
            )
        if entry.dtype.is_complex != leaf.dtype.is_complex:
            raise RuntimeError(
                f"{_entry(path)}v has an invalid dtype: should be {'complex' if leaf.dtype.is_complex else 'real'}"
                f" like {leaf.dtype} but got {entry.dtype}."
            )
    return entries


def _aligned(entries: list[Tensor], v_spec: Spec, leaves: Sequence[Tensor], spec: Spec) -> list[Tensor]:
    if v_spec.paths == spec.paths or (len(leaves) == len(entries) == 1 and _is_flat(spec) and _is_flat(v_spec)):
        return entries
    if _is_flat(spec) and _is_flat(v_spec):
        if len(entries) == len(leaves):  # a named tuple and a plain one
            return entries
        if spec.length is None:
            raise RuntimeError("The given v should contain a single Tensor.")
        raise RuntimeError(f"v is a tuple of invalid length: should be {len(leaves)} but got {len(entries)}.")
    found = dict(zip(v_spec.paths, entries, strict=True))
    for path in spec.paths:
        if path not in found and not path:
            raise RuntimeError("v has an invalid structure: it should be a Tensor, as the input is.")
        if path not in found:
            raise RuntimeError(f"v has an invalid structure: entry {trees.path_name(path)} of it is missing.")
    for path in found:
        if path not in spec.paths:
            raise RuntimeError(f"v has an invalid structure: it has an entry {trees.path_name(path)} too many.")
    return [found[path] for path in spec.paths]


def _is_flat(spec: Spec) -> bool:
    """Whether the structure is a tensor or a tuple of tensors, the two that PyTorch's own functions know."""
    return spec.paths == ((),) or (spec.length is not None and all([len(path) == 1 for path in spec.paths]))


def check_tensors(leaves: Sequence[Any], spec: Spec, what: str, name: str) -> None:
    """Raise unless there are leaves and all of them are tensors; ``what`` they are is named in the sentence."""
    for number, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            continue
        path = spec.paths[number]
        start = f"The {what} given to {name} must be either a Tensor or a tuple of Tensors but the"
        if not path:
            raise TypeError(f"{start} given {what} has type {type(leaf)}.")
        place = f"index {path[0]}" if len(path) == 1 and spec.length is not None else trees.path_name(path)
        raise TypeError(f"{start} value at {place} has type {type(leaf)}.")
    if not leaves:
        raise ValueError(f"The {what} given to {name} must hold at least one Tensor but hold none.")


def _entry(path: Path) -> str:
    if not path:
        return ""
    return f"Entry {path[0] if len(path) == 1 and isinstance(path[0], int) else trees.path_name(path)} in "
