"""``Contiguous``: tensors of the CPU that a guard compares where they lie."""

from __future__ import annotations

import ctypes
from collections.abc import Container
from typing import Any

import torch
from torch import Tensor

from hesse._autograd.captured import Name, same

# A tensor of at most this many elements is compared whole, a larger one by some along each dimension.
WHOLE = 4096
SAMPLES_A_DIMENSION = 8
# Of as many bytes.
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Contiguous:
    """Tensors of the CPU that are compared where they lie: small ones whole, as bytes; of large vectors some elements.

    PyTorch's operators that gather elements take several times as long, most of all where caches are cold.

    Attributes:
        now: their memory, to be read only while they have not moved.
        then: what it held.
    """

    def __init__(self) -> None:
        self.names: list[Name] = []
        # Arrays of ctypes, which bytes are compared with, and samples.
        self.now: list[Any] = []
        self.then: list[bytearray | list[int]] = []
        # They keep the memory alive, so that nothing else comes to lie there.
        self._tensors: list[Tensor] = []

    def add(self, name: Name, tensor: Tensor, address: int) -> bool:
        """One more, whose elements are at an address, if it can be."""
        if not tensor.is_cpu or not tensor.is_contiguous() or tensor.dtype == torch.complex32:
            return False
        if tensor.numel() <= WHOLE:
            memory = (ctypes.c_char * tensor.nbytes).from_address(address)
            self.then.append(bytearray(memory))
            self.now.append(memory)
        elif tensor.dim() == 1 and tensor.element_size() in _Sampled.KINDS:
            sampled = _Sampled(tensor, address)
            self.then.append(sampled.read())
            self.now.append(sampled)
        else:
            return False
        self.names.append(name)
        self._tensors.append(tensor.detach())
        return True

    def changed(self, there: Container[Name] | None = None) -> list[Name]:
        """The names of those that hold other numbers now, of all or of those that are still there."""
        found = []
        for name, tensor, now, then in zip(self.names, self._tensors, self.now, self.then, strict=True):
            if (there is None or name in there) and now != then:
                held = now.read() if isinstance(now, _Sampled) else now
                if not same(_numbers(held, tensor), _numbers(then, tensor)):
                    found.append(name)
        return found


class _Sampled:
    """Some elements of a large vector, as integers."""

    KINDS = {1: ctypes.c_uint8, 2: ctypes.c_int16, 4: ctypes.c_int32, 8: ctypes.c_int64}  # noqa: RUF012  # not changed

    def __init__(self, vector: Tensor, address: int) -> None:
        length = len(vector)
        self._array: Any = (self.KINDS[vector.element_size()] * length).from_address(address)
        self._step = length // SAMPLES_A_DIMENSION

    def read(self) -> list[int]:
        """What they are now."""
        numbers: list[int] = self._array[:: self._step]
        return numbers

    def __eq__(self, then: object) -> bool:
        return self.read() == then

    __hash__ = None  # type: ignore[assignment]  # what it reads changes


def _numbers(held: Any, tensor: Tensor) -> Tensor:
    """The numbers that bytes or integers of a tensor's memory are."""
    dtype = torch.uint8 if tensor.is_quantized else tensor.dtype
    if isinstance(held, list):
        return torch.tensor(held, dtype=INTEGERS[tensor.element_size()], device="cpu").view(dtype)
    return torch.frombuffer(held, dtype=dtype)
