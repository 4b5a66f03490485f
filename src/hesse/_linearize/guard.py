"""A point is a point: notice when a tensor that belongs to it has changed since.

A tensor that ``functional/captured.py`` does not find is still safe, since autograd refuses to use a saved tensor
that was changed; it only cannot be named.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from hesse._autograd.captured import Name, full_name, same
from hesse._base.errors import ClosedError, StalePointError
from hesse._base.several_ranks import is_dtensor
from hesse._linearize.contiguous import INTEGERS, SAMPLES_A_DIMENSION, WHOLE, Contiguous
from hesse._linearize.tape import CLOSED

_PLAIN = frozenset({Tensor, torch.nn.Parameter})

_version_of = operator.attrgetter("_version")

_Place = tuple[int, torch.device, torch.dtype, torch.Size, tuple[int, ...]]

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


class Remembered:
    """Tensors, and what they were when this was made.

    Args:
        named: their names, and they.
        beside: others, whose numbers have just been compared; the same numbers are not remembered twice.
    """

    def __init__(self, named: Iterable[tuple[Name, Tensor]], beside: Remembered | None = None) -> None:
        self._names: list[Name] = []
        self._tensors: list[Tensor] = []
        self._versions: list[int] = []
        self._addresses: list[int | None] = []
        # The names, beside, of those whose numbers are remembered there.
        self._twins: dict[Name, Name] = {}
        self._others: list[State] = []
        self._groups: list[_Samples] = []
        self._whole = Contiguous()
        # Of these an address is read without a call of Python's.
        self._all_shown = True
        groups: dict[tuple[torch.device, torch.dtype, torch.Size], tuple[list[Name], list[Tensor]]] = {}
        seen = set()
        for name, tensor in named:
            is_plain = type(tensor) in _PLAIN
            # A lazy module's parameters are no tensors yet.
            if id(tensor) in seen or (not is_plain and torch.nn.parameter.is_lazy(tensor)) or tensor.is_inference():
                continue
            seen.add(id(tensor))
            where = address(tensor)
            if not is_plain or where is None:
                self._all_shown = False
            self._names.append(name)
            self._tensors.append(tensor)
            self._versions.append(tensor._version)
            self._addresses.append(where)
            is_shown = is_plain and where and tensor.layout == torch.strided and not tensor.is_nested
            if is_shown and beside is not None and (twin := beside._sampled.get(_place(tensor))) is not None:
                self._twins[name] = twin
            elif (is_shown and where and self._whole.add(name, tensor, where)) or (sample := _sample(tensor)) is None:
                continue
            elif (part := _comparable(sample)) is None:
                self._others.append(State.of(name, tensor))
            else:
                names, parts = groups.setdefault((part.device, tensor.dtype, part.shape[1:]), ([], []))
                names.append(name)
                parts.append(part)
        for (_, dtype, _), (names, parts) in groups.items():
            self._groups.append(_Samples.of(names, parts, dtype))

    @property
    def is_on_cpu(self) -> bool:
        """Whether numbers of tensors can be compared without waiting for an accelerator."""
        return all([group.then.is_cpu for group in self._groups])

    @functools.cached_property
    def _sampled(self) -> dict[_Place, Name]:
        """Whose numbers are compared, by their place in memory."""
        compared = {*self._whole.names, *[name for group in self._groups for name in group.names]}
        pairs = zip(self._names, self._tensors, strict=True)
        return {_place(tensor): name for name, tensor in pairs if name in compared and type(tensor) in _PLAIN}

    def has_moved(self) -> bool:
        """Whether a tensor has memory of its own elsewhere now, or was written into where PyTorch counts it."""
        # Maps of functions in C: a product of a small function takes as long as twenty calls of Python's.
        if list(map(_version_of, self._tensors)) != self._versions:
            return True
        try:
            read = Tensor.data_ptr if self._all_shown else address
            return list(map(read, self._tensors)) != self._addresses
        except RuntimeError:  # one was swapped for a tensor that shows no address
            return True

    def has_changed(self, flags: dict[torch.device, list[Tensor]]) -> bool:
        """Whether numbers have changed that are on the CPU; ``flags`` takes what is to be read of accelerators.

        To be asked only where no tensor has moved.
        """
        whole = self._whole
        if whole.then != whole.now and whole.changed():
            return True
        for group in self._groups:
            sample = group.now[0] if len(group.now) == 1 else torch.cat(group.now)
            if not sample.is_cpu:
                flags.setdefault(sample.device, []).append((sample != group.then).any())
            elif not torch.equal(sample, group.then) and group.changed():
                return True
        return bool(self._others) and any([state.has_changed() for state in self._others])

    def is_unchanged(self) -> bool:
        """Whether all is known, without waiting, to be as it was."""
        return not self._tensors or (self.is_on_cpu and not self.has_moved() and not self.has_changed({}))

    def written(self) -> set[Name]:
        """The names of tensors whose numbers have changed."""
        # Memory that is elsewhere now may be gone.
        pairs = zip(self._names, self._tensors, self._addresses, strict=True)
        there = {name for name, tensor, where in pairs if address(tensor) == where}
        # Other bits may be the same number, as of -0.0 and 0.0.
        written = [name for group in self._groups for name in group.changed(there)]
        return {*self._whole.changed(there), *written, *[state.name for state in self._others if state.has_changed()]}

    def changed(self, written: set[Name]) -> Name | None:
        """The name of the first tensor that has moved, or that is among those written into."""
        states = zip(self._names, self._tensors, self._versions, self._addresses, strict=True)
        for name, tensor, version, where in states:
            if self._twins.get(name, name) in written or tensor._version != version or address(tensor) != where:
                return name
        return None


def are_stale(remembered: Sequence[Remembered]) -> list[bool]:
    """Of each, whether a tensor has changed; waits once for each accelerator that has some."""
    found: list[bool] = []
    waiting: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for place, each in enumerate(remembered):
        flags: dict[torch.device, list[Tensor]] = {}
        found.append(each.has_moved() or each.has_changed(flags))
        for device, on_device in flags.items():
            waiting.setdefault(device, []).extend([(place, flag) for flag in on_device])
    for pairs in waiting.values():
        for (place, _), is_changed in zip(pairs, torch.stack([flag for _, flag in pairs]).tolist(), strict=True):
            found[place] = found[place] or is_changed
    return found


class Guard:
    """Remembers the state of tensors when made; ``check`` raises one sentence that names the first that changed.

    Args:
        owner: what was made of the tensors.
        named: their names, and they.
        remedy: the call that helps.
        beside: others, which have been remembered already.
    """

    def __init__(
        self,
        owner: str,
        named: Iterable[tuple[Name, Tensor]],
        remedy: str = "at(inputs)",
        beside: Remembered | None = None,
    ) -> None:
        self._owner = owner
        self._remedy = remedy
        if beside is None or not beside._tensors:
            self._remembered = [Remembered(named)]
        else:
            self._remembered = [Remembered(named, beside), beside]

    def clear(self) -> None:
        """Forget the tensors, which are kept alive until then."""
        self._remembered = []

    def is_stale(self) -> bool:
        """Whether a tensor has changed."""
        return any(are_stale(self._remembered))

    def check(self) -> None:
        """Raise :class:`~hesse._base.errors.StalePointError` if a tensor has changed.

        Within ``read_back_later`` it is ``read_back`` that raises where the numbers of an accelerator's have changed.
        """
        flags: dict[torch.device, list[Tensor]] = {}
        for remembered in self._remembered:
            if remembered.has_moved() or remembered.has_changed(flags):
                self._refuse()
        if flags:
            self._check_on_devices(flags)

    def _check_on_devices(self, flags: dict[torch.device, list[Tensor]]) -> None:
        later = _pending.get()
        for found in flags.values():
            flag = found[0] if len(found) == 1 else torch.stack(found).any()
            if later is not None:
                later.append((flag, self._refuse))
            elif bool(flag):
                self._refuse()

    def _refuse(self) -> None:
        written = set().union(*[remembered.written() for remembered in self._remembered])
        for remembered in self._remembered:
            name = remembered.changed(written)
            if name is not None:
                raise StalePointError(
                    f"{full_name(name)} has changed in place since this {self._owner} was made, so its point is gone."
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

    name: Name
    tensor: Tensor
    version: int
    address: int | None
    sample: Tensor | None
    copy: Tensor | None

    @staticmethod
    def of(name: Name, tensor: Tensor) -> State:
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

    def restore(self) -> None:
        """Put back the numbers that are known of it."""
        if self.sample is not None and self.copy is not None:
            self.sample.data.copy_(self.copy)


def _place(tensor: Tensor) -> _Place:
    return tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride()


def _sample(tensor: Tensor) -> Tensor | None:
    """A view of a small tensor, or of a few elements along each dimension; None where views are not to be had."""
    if type(tensor) not in _PLAIN:
        if not is_dtensor(tensor):
            return None
        # What this rank holds, as a view of it.
        tensor = tensor.detach().to_local()  # type: ignore[attr-defined]  # only DTensor has it
    if type(tensor) not in _PLAIN or tensor.layout != torch.strided:
        return None
    if tensor.is_meta or tensor.is_nested or tensor.dtype == torch.complex32:
        return None
    if tensor.numel() <= WHOLE:
        return tensor.detach()
    steps = [slice(None, None, max(1, size // SAMPLES_A_DIMENSION)) for size in tensor.shape]
    return tensor.detach()[tuple(steps)]


class _Samples(NamedTuple):
    """Samples of several tensors that are compared at once.

    Attributes:
        then: what they held, one after the other.
        dtype: of the numbers that they are.
    """

    names: list[Name]
    now: list[Tensor]
    then: Tensor
    dtype: torch.dtype

    @staticmethod
    def of(names: list[Name], now: list[Tensor], dtype: torch.dtype) -> _Samples:
        return _Samples(names, now, now[0].clone() if len(now) == 1 else torch.cat(now), dtype)

    def changed(self, there: Container[Name] | None = None) -> list[Name]:
        """The names of those that hold other numbers now, of all or of those that are still there."""
        then = self.then.split_with_sizes([len(sample) for sample in self.now])
        # The parts of a complex number may be apart.
        dtype = self.dtype.to_real() if self.dtype == torch.complex128 and not self.then.is_complex() else self.dtype
        return [
            name
            for name, sample, before in zip(self.names, self.now, then, strict=True)
            if (there is None or name in there) and not same(sample.view(dtype), before.view(dtype))
        ]


def _comparable(sample: Tensor) -> Tensor | None:
    """A view of a sample, of one dimension where it can be, that is compared with others; None where there is none.

    On an accelerator it holds integers: with these, a NaN is equal to itself, and a flag tells without more to read.
    """
    if sample.is_quantized or sample.is_conj() or sample.is_neg():
        return None
    if not sample.is_cpu:
        if sample.dtype == torch.complex128:
            sample = torch.view_as_real(sample)
        sample = sample.view(INTEGERS[sample.element_size()])
    return sample.view(-1) if sample.dim() != 1 and sample.is_contiguous() else sample


def address(tensor: Tensor) -> int | None:
    """Where a tensor's elements are, or None where it has none to show."""
    # A stand-in has no memory, and warns of being asked.
    if type(tensor) not in _PLAIN and type(tensor).__name__ == "FakeTensor":
        return None
    try:
        return tensor.data_ptr()
    except RuntimeError:  # sparse tensors and wrapper subclasses
        return None
