"""The data that a loss is summed over: one batch, or anything that holds batches and can be gone over again."""

from __future__ import annotations

import contextlib
import functools
import traceback
import zlib
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hesse._base import trees
from hesse._base.errors import StalePointError, warn_caller
from hesse._base.several_ranks import refuse_repeats
from hesse._data import rows
from hesse._data.draws import GeneratorState, drawn_from

# A first pass over data without a length says so after this many batches, and each time it is ten times as many.
SILENT = 1000
# Passes compare this many bytes of each tensor, from its beginning, middle and end; all of it where there are fewer.
_SAMPLE = 2**20


_END = object()


class Batches:
    """The batches of ``data``, the same at each pass.

    Every pass begins with the random generators as they were when this was made, so that a loader that shuffles or
    augments by them gives the same batches again; what differs nevertheless is found by a checksum of each batch.

    Args:
        data: a tensor, tuple or mapping, which is one batch; or a DataLoader, list or other iterable of batches.
        device: where batches in the memory of the CPU are copied to; None leaves them where they are.
        name: the operator that errors speak of.
        pairs: whether the loss takes pairs, so that a list of two tensors that look alike is one.
        may_be_empty: whether other ranks may have all batches.
        most: how many rows count; those that come later are repeated ones of other ranks. All when left out.
    """

    def __init__(
        self,
        data: Any,
        device: torch.device | None,
        name: str,
        *,
        pairs: bool = False,
        may_be_empty: bool = False,
        most: int | None = None,
    ) -> None:
        _check(data, name)
        if most is None:
            refuse_repeats(data, name)
        self._most = most
        self._data = (data,) if is_one_batch(data, pairs=pairs) else data
        self._device = device
        self._name = name
        self._state = (
            GeneratorState() if isinstance(self._data, list | tuple) else GeneratorState(drawn_from(self._data))
        )
        # Of the batches seen so far, in order.
        self.checksums: list[int] = []
        self._complete = False
        self._may_be_empty = may_be_empty

    def __iter__(self) -> Generator[Any]:
        number = -1
        for number, batch in enumerate(self._counting()):
            self._compare(number, batch)
            yield self._placed(number, batch)
            self._tell(number + 1)
        if number < 0 and not self._may_be_empty:
            raise ValueError(f"The data given to {self._name} holds no batch.")
        if self._complete and number + 1 < len(self.checksums):
            raise self._changed(f"The data has {number + 1} batches but had {len(self.checksums)}")
        self._complete = True

    def _counting(self) -> Iterator[Any]:
        """The batches, or parts of them, whose rows count."""
        if self._most is None:
            yield from self._drawn()
            return
        left = self._most
        for batch in self._drawn():
            number = rows.count(batch)
            if number is None:
                raise ValueError(
                    f"The sampler of the data given to {self._name} repeats rows, which cannot be cut off a"
                    f" {type(batch).__name__}. Give the DistributedSampler drop_last=True."
                )
            if left:
                yield batch if number <= left else rows.part(batch, 0, left)
            left = max(0, left - number)

    def _drawn(self) -> Iterator[Any]:
        """The batches as they come, drawn from the generators as they were, which are the user's between them."""
        if isinstance(self._data, list | tuple):
            yield from self._data
            return
        draws = self._state.resumed()
        with self._with_default_device(), draws.net, draws:
            batches = iter(self._data)
        while True:
            with self._with_default_device(), draws.net, draws:
                batch = next(batches, _END)
            if batch is _END:
                return
            if isinstance(batch, tuple) and len(batch) == 2 and isinstance(batch[0], str):
                # An object whose parts come by name, as a graph's, is a batch itself.
                self._data = (self._data,)
                yield self._data[0]
                return
            yield batch

    @contextlib.contextmanager
    def _with_default_device(self) -> Iterator[None]:
        """One sentence where PyTorch's own loader cannot work with the default device."""
        try:
            yield
        except RuntimeError as error:
            default = torch.get_default_device()
            if default.type == "cpu" or not _is_pytorchs(error, self._data):
                raise
            raise RuntimeError(
                f"The DataLoader given to {self._name} draws no batch while the default device is {default}:"
                f' {str(error).splitlines()[0].rstrip(".")}. Call torch.set_default_device("cpu") first, or give a list'
                " of batches."
            ) from error

    def held_elsewhere(self, batch: Any) -> list[Tensor]:
        """The tensors of a batch (or microbatch) whose memory is the user's anyway, kept by us or not."""
        tensors = [tensor for tensor in rows.tensors(batch) if tensor.layout == torch.strided and not tensor.is_meta]
        if isinstance(self._data, list | tuple) and self._device in (None, torch.device("cpu")):
            return tensors
        return [
            tensor for tensor in tensors if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()
        ]

    def first(self) -> tuple[Any, bool]:
        """The first batch, or None of data that may be empty, and whether there are more."""
        with contextlib.closing(iter(self)) as batches:
            first = next(batches, None)
            several = self.may_be_several() and next(batches, self) is not self
        if several and checksum(first) != self.checksums[0]:
            # The loader fills the same tensors with each batch.
            with contextlib.closing(iter(self)) as batches:
                first = next(batches)
        return first, several

    def length(self) -> int | None:
        """How many batches there are, where that is known beforehand or by now."""
        if self._complete:
            return len(self.checksums)
        try:
            return len(self._data)
        except TypeError:
            return None

    def may_be_several(self) -> bool:
        """Whether there can be more than one batch; that there is no more is known where data has a length."""
        number = self.length()
        return number is None or number > 1

    def _tell(self, count: int) -> None:
        """Warn of data that may never end."""
        if count >= SILENT and str(count).rstrip("0") == "1" and self.length() is None:
            warn_caller(
                f"{self._name} has read {count} batches of a {type(self._data).__name__}, which has no length, and goes"
                " on to its end. If it has none, give a finite one, such as"
                f" list(itertools.islice(data, {SILENT}))."
            )

    def _compare(self, number: int, batch: Any) -> None:
        found = checksum(batch)
        if number == len(self.checksums) and not self._complete:
            self.checksums.append(found)
        elif number >= len(self.checksums) or found != self.checksums[number]:
            raise self._changed(f"Batch {number} of the data is not what it was")

    def _changed(self, what: str) -> StalePointError:
        return StalePointError(
            f"{what} in an earlier pass of {self._name}: the loader shuffles or augments, or the data was changed. Give"
            " batches that stay the same, such as list(loader), or call at() after a change."
        )

    def _placed(self, number: int, batch: Any) -> Any:
        """The batch on the model's device, or one sentence that says why it is none."""
        if batch is None or isinstance(batch, str | bytes | int | float):
            raise TypeError(
                f"Batch {number} of the data given to {self._name} should hold tensors but is {type(batch)}."
            )
        if any(isinstance(leaf, np.ndarray) for leaf in trees.leaves(batch)):
            raise TypeError(
                f"Batch {number} of the data given to {self._name} holds arrays of NumPy, which models take for no"
                " tensors. Give tensors, as by torch.from_numpy."
            )
        device = self._device
        if device is None or all(tensor.device == device for tensor in rows.tensors(batch)):
            return batch

        def move(tensor: Tensor) -> Tensor:
            if tensor.device == device:
                return tensor
            if tensor.device.type != "cpu" or device.type == "meta":
                raise ValueError(
                    f"Batch {number} of the data given to {self._name} is on {tensor.device} but the model is on"
                    f" {device}. Move one to the other."
                )
            return tensor.to(device, non_blocking=tensor.is_pinned())

        return rows.map_batch(move, batch)


class Cast:
    """Data whose batches have their floating-point tensors in another precision."""

    def __init__(self, data: Any, dtype: torch.dtype, *, pairs: bool = False) -> None:
        self._data = (data,) if is_one_batch(data, pairs=pairs) else data
        self._dtype = dtype

    def __iter__(self) -> Iterator[Any]:
        for batch in self._data:
            yield rows.map_batch(self._cast, batch)

    def __len__(self) -> int:
        return len(self._data)

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._dtype) if tensor.dtype.is_floating_point else tensor


def is_one_batch(data: Any, *, pairs: bool = False) -> bool:
    """Whether data is a batch itself and not a collection of them.

    A list of tensors of equally many rows is one, as a loader gives it, unless they look alike as batches do.
    """
    if isinstance(data, list) and len(data) > 1 and all(isinstance(entry, Tensor) and entry.dim() for entry in data):
        alike = len({(entry.shape, entry.dtype) for entry in data}) == 1
        return len({len(entry) for entry in data}) == 1 and (not alike or (pairs and len(data) == 2))
    return isinstance(data, Tensor | tuple | Mapping) or trees.is_dataclass_instance(data)


def _check(data: Any, name: str) -> None:
    if is_one_batch(data):
        return
    if isinstance(data, torch.utils.data.Dataset) and not isinstance(data, torch.utils.data.IterableDataset):
        raise TypeError(
            f"The data given to {name} is a {type(data).__name__}, which holds single samples. Give a DataLoader over"
            " it, or one batch."
        )
    if isinstance(data, str | bytes) or not hasattr(data, "__iter__"):
        raise TypeError(
            f"The data given to {name} should be a batch (a tensor, tuple or mapping) or hold batches but is"
            f" {type(data)}."
        )
    if iter_is_itself(data):
        raise TypeError(
            f"The data given to {name} is a {type(data).__name__}, which can be read once, but every product goes over"
            " the data again. Give list(data), or an object whose __iter__ begins anew."
        )


def iter_is_itself(data: Any) -> bool:
    """Whether data is an iterator, which is used up by a pass."""
    return hasattr(data, "__next__")


def _is_pytorchs(error: BaseException, data: Any) -> bool:
    """Whether an error of a DataLoader comes from its own lines, not from those of a user's class."""
    frames = traceback.walk_tb(error.__traceback__)
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in frames]
    return isinstance(data, torch.utils.data.DataLoader) and all(
        [module.split(".")[0] in ("torch", "hesse", "contextlib") for module in modules]
    )


def checksum(batch: Any, sample: int | None = _SAMPLE) -> int:
    """Of all tensors of a batch, of which large ones are sampled."""
    total = 0
    for tensor in rows.tensors(batch):
        total = zlib.crc32(_layout(tensor.dtype, tensor.shape), total)
        if tensor.layout is torch.strided and not tensor.is_meta:
            total = zlib.crc32(_bytes(tensor, sample), total)
    return total


@functools.lru_cache(maxsize=1024)
def _layout(dtype: torch.dtype, shape: torch.Size) -> bytes:
    return str((dtype, tuple(shape))).encode()


def _bytes(tensor: Tensor, sample: int | None) -> Any:
    """The bytes of a tensor, or of three pieces of a large one."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    flat = tensor.reshape(-1)
    piece = (sample or 0) // 3 // flat.element_size()
    if sample is not None and flat.numel() > 3 * piece:
        middle = flat.numel() // 2
        flat = torch.cat([flat[:piece], flat[middle : middle + piece], flat[-piece:]])
    return flat.contiguous().cpu().view(torch.uint8).numpy() if flat.numel() else b""
