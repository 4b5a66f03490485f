"""A point is a point: notice when a tensor that belongs to it has changed since.

A tensor that ``functional/captured.py`` does not find is still safe, since autograd refuses to use a saved tensor
that was changed; it only cannot be named.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from hesse._autograd.captured import same
from hesse._base.errors import ClosedError, StalePointError
from hesse._base.several_ranks import is_dtensor
from hesse._linearize.tape import CLOSED

# A tensor of at most this many elements is compared whole, a larger one by some along each dimension.
_WHOLE = 4096
_SAMPLES_A_DIMENSION = 8


class Guard:
    """Remembers the state of tensors when made; ``check`` raises one sentence that names the first that changed."""

    def __init__(self, owner: str, named: Iterable[tuple[str, Tensor]], remedy: str = "at(inputs)") -> None:
        self._owner = owner
        self._remedy = remedy
        self._states: list[State] = []
        seen = set()
        for name, tensor in named:
            # A lazy module's parameters are no tensors yet.
            lazy = torch.nn.parameter.is_lazy(tensor)
            if id(tensor) not in seen and not lazy and not tensor.is_inference():
                seen.add(id(tensor))
                self._states.append(State.of(name, tensor))

    def clear(self) -> None:
        """Forget the tensors, which are kept alive until then."""
        self._states = []

    def check(self) -> None:
        """Raise :class:`~hesse._base.errors.StalePointError` if a tensor has changed."""
        for state in self._states:
            if state.has_changed():
                raise StalePointError(
                    f"{state.name} has changed in place since this {self._owner} was made, so its point is gone."
                    f" Call {self._remedy} for the operator at the present values."
                )


class Closed(Guard):
    """The guard of a point that was closed."""

    def __init__(self) -> None:
        super().__init__("", ())

    def check(self) -> None:
        """Raise: there is no point any more."""
        raise ClosedError(CLOSED)


class State(NamedTuple):
    """What a tensor is now, as far as that can be told without a copy of a large one."""

    name: str
    tensor: Tensor
    version: int
    address: int | None
    sample: Tensor | None
    copy: Tensor | None

    @staticmethod
    def of(name: str, tensor: Tensor) -> State:
        """The state of a tensor."""
        sample = _sample(tensor)
        copy = None if sample is None else sample.clone()
        return State(name, tensor, tensor._version, address(tensor), sample, copy)

    def has_changed(self) -> bool:
        """Whether the tensor is another, was written into, or has moved."""
        if self.tensor._version != self.version or address(self.tensor) != self.address:
            return True
        # Writing through ``.data`` counts no version; a few elements give a change of the whole tensor away.
        return self.sample is not None and self.copy is not None and not same(self.sample, self.copy)

    def put_back(self) -> None:
        """The numbers that are known of it."""
        if self.sample is not None and self.copy is not None:
            self.sample.data.copy_(self.copy)


def _sample(tensor: Tensor) -> Tensor | None:
    """A view of a small tensor, or of a few elements along each dimension; None where views are not to be had."""
    if is_dtensor(tensor):
        # What this rank holds, as a view of it.
        tensor = tensor.detach().to_local()  # type: ignore[attr-defined]  # only DTensor has it
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
        return None
    if tensor.is_meta or tensor.is_nested or tensor.dtype == torch.complex32:
        return None
    if tensor.numel() <= _WHOLE:
        return tensor.detach()
    steps = [slice(None, None, max(1, size // _SAMPLES_A_DIMENSION)) for size in tensor.shape]
    return tensor.detach()[tuple(steps)]


def address(tensor: Tensor) -> int | None:
    """Where a tensor's elements are, or None where it has none to show."""
    # A stand-in has no memory, and warns of being asked.
    if type(tensor).__name__ == "FakeTensor":
        return None
    try:
        return tensor.data_ptr()
    except RuntimeError:  # sparse tensors and wrapper subclasses
        return None
