"""The file of a checkpoint: safetensors with a header of JSON, a digest over both, and limits for all that is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hesse._base import files, memory
from hesse._base.errors import CheckpointError

State = dict[str, Any]
"""Tensors, whatever JSON holds, and operators, which come back as their fingerprints; names are one space."""

VERSION = 8
# What the header holds, and of which type.
FIELDS = {
    "version": int,
    "question": str,
    "settings": dict,
    "threads": int,
    "decisions": dict,
    "operator": str,
    "state": dict,
    "places": dict,
}
# PyTorch starts as many threads as it is told to, and dies of millions.
MOST_THREADS = 1024
DAMAGED = "is damaged or no checkpoint of hesse"


def refuse(path: Path, why: str, error: BaseException | None = None) -> NoReturn:
    """Raise, and leave the file as it is."""
    raise CheckpointError(
        f"The checkpoint {path} {why}, and is left as it is. Give another path, or delete it."
    ) from error


class Saved(State):
    """The state that a file held; an entry that is missing is told in a sentence."""

    def __init__(self, path: Path, state: State) -> None:
        super().__init__(state)
        self._path = path

    def __missing__(self, name: str) -> NoReturn:
        refuse(self._path, f"holds no {name}")


def digest(*tensors: Tensor) -> str:
    """A few letters that tell tensors apart to the bit."""
    found = hashlib.sha256()
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        found.update(f"{values.dtype} {tuple(values.shape)} ".encode())
        found.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:32]


def write(path: Path, header: Mapping[str, Any], state: State, plain: Callable[[Any], Any]) -> None:
    """Write header and state, whole or not at all.

    Args:
        path: the file.
        header: the fields beside those of the state.
        state: see ``State``.
        plain: turns what JSON does not know into what it does.
    """
    rest, places, tensors = _part(state)
    text = json.dumps({"version": VERSION, **header, "state": rest, "places": places}, default=plain)
    # safetensors does not read a file back that holds no tensor.
    tensors[""] = torch.zeros(0, device="cpu")
    with files.whole(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, {"hesse": text, "digest": _seal(text, tensors)})


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of a file, if they are what was written.

    Raises:
        CheckpointError: the file is damaged, of another version, or asks for more than can be meant.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        header = json.loads(metadata["hesse"])
        version = header["version"]
    except (OSError, safetensors.SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        refuse(path, DAMAGED, error)
    if version != VERSION:
        refuse(path, f"is of version {version}, not {VERSION}")
    right = (
        metadata.get("digest") == _seal(metadata["hesse"], tensors)
        and {name: type(value) for name, value in header.items()} == FIELDS
        and header["places"].keys() == tensors.keys() - {""}
    )
    if not right:
        refuse(path, DAMAGED)
    if not 1 <= header["threads"] <= MOST_THREADS:
        refuse(path, f"asks for {header['threads']} threads, where from 1 to {MOST_THREADS} can be meant")
    return header, tensors


def saved(path: Path, header: dict[str, Any], tensors: dict[str, Tensor], device: torch.device) -> Saved:
    """The state, with its tensors as they lay in memory, on the device or the CPU."""
    places = header["places"]
    laid_out = {name: _laid_out(path, tensors[name], place, device) for name, place in places.items()}
    return Saved(path, {**header["state"], **laid_out})


def _laid_out(path: Path, value: Tensor, place: Any, device: torch.device) -> Tensor:
    match place:
        case [[*strides], bool(away)] if len(strides) == value.dim() and all(
            type(stride) is int and stride >= 0 for stride in strides
        ):
            home = device if away else torch.device("cpu")
        case _:
            refuse(path, DAMAGED)
    last = sum((length - 1) * stride for length, stride in zip(value.shape, strides, strict=True))
    size, left = (last + 1) * value.itemsize if value.numel() else 0, memory.available(home)
    if size > left:
        refuse(path, f"needs {memory.readable(size)} for one tensor, where {memory.readable(left)} are available")
    return torch.empty_strided(value.shape, strides, dtype=value.dtype, device=home).copy_(value)


def _seal(text: str, tensors: Mapping[str, Tensor]) -> str:
    """A digest of all that a file holds."""
    names = sorted(tensors)
    return hashlib.sha256(f"{text} {names} {digest(*[tensors[name] for name in names])}".encode()).hexdigest()


def _part(state: State) -> tuple[State, dict[str, Any], dict[str, Tensor]]:
    """The JSON, where and how the tensors lie in memory, and the tensors, contiguous."""
    tensors = {name: value.detach() for name, value in state.items() if isinstance(value, Tensor)}
    rest = {name: value for name, value in state.items() if name not in tensors}
    # Sums are taken in another order where columns lie otherwise in memory, so strides belong to the digits.
    places = {name: (list(value.stride()), value.device.type != "cpu") for name, value in tensors.items()}
    # Copies: safetensors refuses tensors that share memory.
    copies = {
        name: torch.empty(value.shape, dtype=value.dtype, device="cpu").copy_(value) for name, value in tensors.items()
    }
    return rest, places, copies
