"""The calls that a function makes of PyTorch, in order: what they gave, what they read, and what they changed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hesse._autograd.provenance import Frame, calling_frame
from hesse._base import trees


class Call(NamedTuple):
    """One call.

    Attributes:
        operator: what was called.
        frame: the user's line.
        digest: of the bits of its results.
        touches: addresses of the memory of its arguments and results.
        writes: of those that it changed.
    """

    operator: str
    frame: Frame | None
    digest: bytes
    touches: frozenset[int]
    writes: frozenset[int]


class Calls(TorchFunctionMode):
    """Around an evaluation: writes down each call; slow, since it looks at every result. Changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Call] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        arguments = tensors((args, kwargs))
        versions = [_version(tensor) for tensor in arguments]
        result = func(*args, **(kwargs or {}))
        writes = [tensor for tensor, version in zip(arguments, versions, strict=True) if _version(tensor) != version]
        results = tensors(result)
        if results or writes:
            self.log.append(
                Call(
                    getattr(func, "__name__", str(func)),
                    calling_frame(),
                    _digest(results),
                    frozenset(map(_address, [*arguments, *results])),
                    frozenset(map(_address, writes)),
                )
            )
        return result


def first_difference(one: Sequence[Call], other: Sequence[Call]) -> Call | None:
    """The first call that differs between two logs of a function: whatever makes it vary begins there."""
    for left, right in itertools.zip_longest(one, other):
        if left is None or right is None or left[:3] != right[:3]:
            return left or right
    return None


def change_in_place(log: Sequence[Call], needed: Frame | None) -> Call | None:
    """The call that changed in place what a call at a line had been given, or had given."""
    for i, call in enumerate(log):
        if call.frame is not None and call.frame == needed:
            for later in log[i + 1 :]:
                if later.writes & call.touches:
                    return later
    return None


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in arguments or results."""
    return [entry for entry in trees.leaves(tree) if isinstance(entry, Tensor)]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _address(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:  # sparse tensors and wrapper subclasses
        return id(tensor)


def _digest(results: Sequence[Tensor]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in results:
        dense = (tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()).cpu().contiguous()
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(dense.resolve_conj().resolve_neg().flatten().view(torch.uint8).numpy().tobytes())
    return digest.digest()
