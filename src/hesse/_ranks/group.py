"""``Ranks``: the processes of a group that make something together, and the few collectives that they need.

Each collective begins with an announcement: one small reduction of fixed size that says what every rank is about to do.
So ranks that do different things learn of it before sizes clash, where gloo ends the process and NCCL hangs.
"""

from __future__ import annotations

import platform
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from hesse._base import handed_on
from hesse._base.devices import widest
from hesse._ranks.exchange import packed, plain, unpacked
from hesse._ranks.marks import differs, mark, rounding
from hesse._ranks.waiting import Notes, listed

T = TypeVar("T")

# In the storage that PyTorch hands on to a backward's threads.
_TOGETHER = "hesse.together"

_known: weakref.WeakKeyDictionary[dist.ProcessGroup, Ranks] = weakref.WeakKeyDictionary()


class Ranks:
    """The processes of a group.

    Attributes:
        rank, size: which of how many this is.
        is_first: whether it is the rank that writes, warns and draws.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.is_first = self.rank == 0
        self._group = weakref.ref(group)
        self._notes = Notes(group, self.rank, self.size)
        self._device = torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")
        self._count = 0
        self._shared: BaseException | None = None
        self._numbers = 0

    @staticmethod
    def of(group: dist.ProcessGroup | None, *, alone: bool = False) -> Ranks | None:
        """Those of a group; None for a rank that is alone, unless that is asked for."""
        if group is None:
            return None
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                f"group should be a process group of torch.distributed that this rank is in but is {group!r}."
            )
        if dist.get_world_size(group) == 1 and not alone:
            return None
        found = _known.get(group)
        if found is None:
            found = _known[group] = Ranks(group)
        return found

    @property
    def group(self) -> dist.ProcessGroup:
        """The group of PyTorch's."""
        found = self._group()
        if found is None:
            raise RuntimeError("The process group of these ranks was destroyed.")
        return found

    def number(self) -> int:
        """A number for something that all ranks make at this place."""
        self._numbers += 1
        return self._numbers

    def gather(self, what: str, compute: Callable[[], T], vector: Sequence[Tensor] = ()) -> list[T]:
        """What each rank computes; where that raises on one, the same error on all.

        Args:
            what: what for, for a sentence; the same on all ranks.
            compute: makes the value, which is small.
            vector: tensors that are the same on all ranks.
        """
        agree = self._announce(what, vector, self._device)
        value, error = _tried(compute)
        agree()
        return self._exchange(value, error)

    def _exchange(self, value: T, error: BaseException | None) -> list[T]:
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, (None, packed(error)) if error else (value, None), group=self.group)
        failed = [rank for rank, (_, sent) in enumerate(found) if sent is not None]
        if failed:
            first = failed[0]
            self._shared = error if error is not None and first == self.rank else unpacked(found[first][1], first)
            raise self._shared
        return [value for value, _ in found]

    def of_first(self, what: str, compute: Callable[[], T]) -> T:
        """What the first rank computes, a value of any size; where that raises, the same error on all ranks."""
        agree = self._announce(what, (), self._device)
        value, error = _tried(compute) if self.is_first else (None, None)
        agree()
        found: list[Any] = [(None, packed(error)) if error else (value, None)]
        dist.broadcast_object_list(found, group=self.group, group_src=0)
        if found[0][1] is not None:
            self._shared = error or unpacked(found[0][1], 0)
            raise self._shared
        received: Any = value if self.is_first else found[0][0]
        return cast(T, received)

    def total(
        self, what: str, compute: Callable[[], Tensor], like: Tensor, vector: Sequence[Tensor], key: str = ""
    ) -> Tensor:
        """The sum over ranks of what each computes, a flat vector, by one reduction.

        Args:
            what: what for, for a sentence; the same on all ranks.
            compute: this rank's part.
            like: an empty tensor of its length, dtype and device.
            vector: tensors that are the same on all ranks.
            key: what else is the same on all ranks.
        """
        agree = self._announce(what, vector, like.device, f"{key}{len(like)} numbers")
        part, error = _tried(compute)
        # Behind the sum a flag of each rank says whether it failed.
        flags = torch.zeros(self.size, dtype=like.dtype, device=like.device)
        if error is not None:
            flags[self.rank] = 1
        whole = torch.cat([torch.zeros_like(like) if part is None else part, flags])
        del part
        agree()
        self._finish(dist.all_reduce(whole, group=self.group, async_op=True), what, computing=True)
        total, flags = whole[: len(like)], whole[len(like) :]
        if bool(flags.any()):
            self._exchange(None, error)
        return total

    def sum(self, numbers: Tensor, what: str) -> Tensor:
        """The sum of a small tensor, which is overwritten; all ranks are known to be at the same place."""
        return self._reduced(numbers.contiguous(), what, dist.ReduceOp.SUM)

    def largest(self, numbers: Tensor, what: str) -> Tensor:
        """The largest of a small tensor's numbers, or whether any is true; all ranks are known to be at one place."""
        kind = torch.uint8 if numbers.dtype == torch.bool else numbers.dtype
        here = numbers.to(self._device, kind, copy=True).contiguous()
        return self._reduced(here, what, dist.ReduceOp.MAX).to(numbers.device, numbers.dtype)

    def _reduced(self, numbers: Tensor, what: str, operation: dist.ReduceOp.RedOpType) -> Tensor:
        self._count += 1
        self._finish(dist.all_reduce(numbers, operation, group=self.group, async_op=True), what, computing=False)
        return numbers

    def least(self, what: str, size: int, device: torch.device, *, is_shared: bool) -> int:
        """The bytes that the poorest rank may take; of one device's, its ranks have equal parts if ``is_shared``."""
        found = self.gather(what, lambda: (f"{platform.node()} {device}", size, is_shared))
        places = [place for place, *_ in found]
        return max(1, min([size // (places.count(place) if shared else 1) for place, size, shared in found]))

    def together(self, what: str, compute: Callable[[], T]) -> T:
        """What this rank computes by steps that all ranks take; an error on one is raised on all.

        A rank that fails between two steps says so where the others announce their next one. Collectives of a model's
        layers are steps, too.
        """
        self._announce(what, (), self._device)()
        before = computing_together()
        handed_on.put(_TOGETHER, self)
        try:
            value, error = _tried(compute)
        finally:
            handed_on.put(_TOGETHER, before)
        if error is not None and self._has_come(error):
            raise error
        try:
            self._announce(f"the end of {what}", (), self._device, error=error)()
        except BaseException as told:
            if error is None or told is error:
                raise
            # Others may wait in a collective of PyTorch's, where they do not hear of it.
            raise told from error
        return cast(T, value)

    def step(self, what: str, begin: Callable[[], Any]) -> None:
        """A collective within what ranks compute together, which all are about to begin.

        So it is not long under way; with gloo some are not done before they are waited for.
        """
        self.within(what, lambda: begin().wait())

    def within(self, what: str, collective: Callable[[], T]) -> T:
        """What a collective gives that all ranks are about to begin, within what they compute together."""
        self._announce(what, (), self._device)()
        try:
            return collective()
        except BaseException as error:
            self._left_alone(what, error)
            raise

    def _has_come(self, error: BaseException | None) -> bool:
        """Whether all ranks raise an error, or what another one is the cause of."""
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            if error is self._shared:
                return True
            seen.add(id(error))
            error = error.__cause__ or error.__context__
        return False

    def share(self, length: int) -> slice:
        """This rank's share of so many rows."""
        return slice(length * self.rank // self.size, length * (self.rank + 1) // self.size)

    def require_alike(self, entry: str, found: Sequence[Mapping[str, Any]]) -> None:
        """Raise, on all ranks, where a value that each rank gave is not the same on all."""
        for name in dict.fromkeys([name for given in found for name in given]):
            value = found[0].get(name)
            others = [rank for rank, given in enumerate(found) if given.get(name) != value]
            if others:
                other = found[others[0]].get(name)
                raise ValueError(
                    f"{entry} has {name} {plain(value)} on rank 0 but {plain(other)} on {listed(others)}. Give the same"
                    " on all ranks."
                )

    def leave(self, what: str, error: BaseException) -> None:
        """Tell the other ranks that an error ended what this one did, unless they raise it too."""
        if error is not self._shared:
            self._notes.leave(self._count + 1, what, error)

    def _announce(
        self,
        what: str,
        vector: Sequence[Tensor],
        device: torch.device,
        key: str = "",
        error: BaseException | None = None,
    ) -> Callable[[], None]:
        """Begin to tell what this rank is about to do, or its error; what is returned waits for all, and compares."""
        self._count += 1
        said = torch.zeros(self.size, 3, dtype=widest(device), device=device)
        said[self.rank, 0] = -1 if error else 1 + zlib.crc32(f"{self._count} {what} {key}".encode())
        said[self.rank, 1:] = mark(vector, device)
        work = dist.all_reduce(said, group=self.group, async_op=True)

        def agree() -> None:
            self._finish(work, what, computing=False)
            everywhere = said.cpu()
            if bool((everywhere[:, 0] < 0).any()):
                self._exchange(None, error)
            self._compare(what, key, everywhere, rounding(vector))

        return agree

    def _compare(self, what: str, key: str, said: Tensor, alike: float) -> None:
        if not bool((said[:, 0] == said[0, 0]).all()):
            found: list[Any] = [None] * self.size
            dist.all_gather_object(found, f"{what} ({key})" if key else what, group=self.group)
            asked = " and ".join(f"{text} on rank {rank}" for rank, text in enumerate(found))
            self._shared = RuntimeError(
                f"Ranks do different things at the same time: {asked}. Every rank of the group makes the same"
                " operators, and asks them the same, in the same order."
            )
            raise self._shared
        others = [rank for rank in range(1, self.size) if differs(said[rank, 1:], said[0, 1:], alike)]
        if others:
            self._shared = ValueError(
                f"{what} was given another vector on {listed(others)} than on rank 0. Give the same on all ranks."
            )
            raise self._shared

    def _finish(self, work: Any, what: str, *, computing: bool) -> None:
        try:
            self._notes.wait(work, self._count, what, computing=computing)
        except BaseException as error:
            self._left_alone(what, error)
            raise

    def _left_alone(self, what: str, error: BaseException) -> None:
        """A collective failed: the others are told by a note, and are not waited for any more."""
        self._notes.leave(self._count, what, error)
        self._shared = error


def computing_together() -> Ranks | None:
    """The ranks that take the steps of what this thread computes, if others do."""
    found: Ranks | None = torch._C._get_obj_in_tls(_TOGETHER) if torch._C._is_key_in_tls(_TOGETHER) else None
    return found


def _tried(compute: Callable[[], T]) -> tuple[Any, BaseException | None]:
    """What is computed, or the error that ended it."""
    try:
        return compute(), None
    except BaseException as error:  # told to the other ranks, and raised on all
        return None, error
