"""A point is a point: notice when a tensor that belongs to it has changed since.

A tensor that ``functional/captured.py`` does not find is still safe, since autograd refuses to use a saved tensor
that was changed; it only cannot be named.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
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
# Samples are compared as integers of as many bytes: with these, a NaN is equal to itself.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Flag = tuple[Tensor, Callable[[], object]]
"""Whether samples on an accelerator have changed, which is not read back yet, and what raises if so."""

_pending: ContextVar[list[Flag] | None] = ContextVar("pending", default=None)


@contextlib.contextmanager
def read_back_later() -> Iterator[list[Flag]]:
    """Meanwhile guards of tensors on an accelerator do not wait for it; ``read_back`` raises what they found."""
    flags: list[Flag] = []
    token = _pending.set(flags)
    try:
        yield flags
    finally:
        _pending.reset(token)


def read_back(numbers: Tensor, flags: list[Flag]) -> Tensor:
    """A vector of numbers on the CPU, by one transfer with the flags; raises where a flag is set."""
    if not flags:
        return numbers.cpu()
    changed = torch.stack([flag.to(numbers.device, numbers.dtype) for flag, _ in flags])
    together = torch.cat([numbers, changed]).cpu()
    for (_, refuse), is_set in zip(flags, together[len(numbers) :].tolist(), strict=True):
        if is_set:
            refuse()
    return together[: len(numbers)]


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
        self._samples, self._others = _together(self._states)

    def clear(self) -> None:
        """Forget the tensors, which are kept alive until then."""
        self._states, self._samples, self._others = [], [], []

    def check(self) -> None:
        """Raise :class:`~hesse._base.errors.StalePointError` if a tensor has changed.

        Within ``read_back_later`` it is ``read_back`` that raises where the numbers of an accelerator's have changed.
        """
        for state in self._states:
            if state.has_moved():
                self._refuse()
        flags: dict[torch.device, list[Tensor]] = {}
        for now, then in self._samples:
            sample = now[0] if len(now) == 1 else torch.cat(now)
            if sample.device.type != "cpu":
                flags.setdefault(sample.device, []).append((sample != then).any())
            elif not torch.equal(sample, then):
                self._refuse()
        if any([state.has_changed() for state in self._others]):
            self._refuse()
        later = _pending.get()
        for found in flags.values():
            flag = found[0] if len(found) == 1 else torch.stack(found).any()
            if later is not None:
                later.append((flag, self._refuse))
            elif bool(flag):
                self._refuse()

    def _refuse(self) -> None:
        """Name the first tensor that has changed; other bits may still be the same number, as those of −0.0 and 0.0."""
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

    def has_moved(self) -> bool:
        """Whether the tensor has memory of its own elsewhere now, or was written into where PyTorch counts it."""
        return self.tensor._version != self.version or address(self.tensor) != self.address

    def has_changed(self) -> bool:
        """Whether the tensor is another, was written into, or has moved."""
        if self.has_moved():
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


def _together(states: list[State]) -> tuple[list[tuple[list[Tensor], Tensor]], list[State]]:
    """Samples that are compared at once, as integers, with what they hold now; and the states of all others."""
    groups: dict[tuple[object, ...], list[Tensor]] = {}
    others = []
    for state in states:
        if state.sample is None:
            continue
        bits = _bits(state.sample)
        if bits is None:
            others.append(state)
        else:
            groups.setdefault((bits.device, bits.dtype, bits.shape[1:]), []).append(bits)
    return [(now, torch.cat(now)) for now in groups.values()], others


def _bits(sample: Tensor) -> Tensor | None:
    """A view of a sample as integers, of one dimension where it can be; None where views are not to be had."""
    if sample.is_quantized or sample.is_conj() or sample.is_neg():
        return None
    if sample.dtype == torch.complex128:
        sample = torch.view_as_real(sample)
    bits = sample.view(_INTEGERS[sample.element_size()])
    return bits.view(-1) if bits.is_contiguous() else bits


def address(tensor: Tensor) -> int | None:
    """Where a tensor's elements are, or None where it has none to show."""
    # A stand-in has no memory, and warns of being asked.
    if type(tensor).__name__ == "FakeTensor":
        return None
    try:
        return tensor.data_ptr()
    except RuntimeError:  # sparse tensors and wrapper subclasses
        return None
