"""The precision that operations take from what surrounds them: autocast, and that of float32 matrix products.

An operator evaluates as autocast was where the operator was made. What hesse computes with its products (inner products
of vectors, and their combinations) is exact to the rounding of their dtype.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

KINDS = ("cpu", "cuda", "xpu", "mps")
Dtypes = tuple[torch.dtype | None, ...]
_OFF: Dtypes = (None,) * len(KINDS)


def _asked_of_each() -> bool:
    return any(map(torch.is_autocast_enabled, KINDS))


# Asked in each product and at each point: in C, which does not know of MPS.
any_autocast: Callable[[], bool] = (
    _asked_of_each if torch.backends.mps.is_built() else getattr(torch._C, "_is_any_autocast_enabled", _asked_of_each)
)
"""``any_autocast()``: whether this thread is under autocast for any kind of device."""


class Autocast:
    """What autocast does on this thread where this is made.

    Attributes:
        dtypes: of each kind of device what it casts to, or None where it is off.
        is_on: whether it is for any of them.
    """

    def __init__(self, dtypes: Dtypes | None = None) -> None:
        self.dtypes = _dtypes() if dtypes is None else dtypes
        self.is_on = self.dtypes is not _OFF

    @staticmethod
    def now() -> Autocast:
        """The same, which is one object where autocast is off."""
        return Autocast() if any_autocast() else _none

    def is_now(self) -> bool:
        """Whether this thread is under the same autocast now."""
        return _dtypes() == self.dtypes

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Meanwhile autocast does the same again."""
        with contextlib.ExitStack() as stack:
            for kind, dtype, now in zip(KINDS, self.dtypes, _dtypes(), strict=True):
                if dtype != now:
                    stack.enter_context(torch.autocast(kind, dtype or now, enabled=dtype is not None))
            yield

    def dtype(self, device: torch.device) -> torch.dtype | None:
        """What it casts to on a device, or None."""
        return dict(zip(KINDS, self.dtypes, strict=True)).get(device.type)


def _dtypes() -> Dtypes:
    if not any_autocast():
        return _OFF
    return tuple([torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None for kind in KINDS])


_none = Autocast.__new__(Autocast)
_none.dtypes, _none.is_on = _OFF, False

# Those that may multiply matrices of float32 in less: each has its own setting, of the process.
_BACKENDS: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]  # no types there
_FULL = ("ieee", "none")


class _Full:
    """float32 matrix products in full precision while something asks for it; the last to leave puts settings back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._before: list[tuple[Any, str]] = []

    def enter(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._before = [(one, one.fp32_precision) for one in _BACKENDS if one.fp32_precision not in _FULL]
                for backend, _ in self._before:
                    backend.fp32_precision = "ieee"
            self._depth += 1

    def leave(self) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                for backend, precision in self._before:
                    backend.fp32_precision = precision


_full = _Full()


class Exact:
    """Meanwhile no autocast and no TF32, but within ``as_before``."""

    def __init__(self) -> None:
        self._before = Autocast()
        self._stack = contextlib.ExitStack()
        self._is_entered = False

    def __enter__(self) -> None:
        self._is_entered = True
        if any(self._before.dtypes):
            self._stack.enter_context(Autocast(_OFF).again())
        _full.enter()
        self._stack.callback(_full.leave)

    def __exit__(self, *exception: object) -> None:
        self._is_entered = False
        self._stack.close()

    @contextlib.contextmanager
    def as_before(self) -> Iterator[None]:
        """Meanwhile as it was outside."""
        if not self._is_entered:
            yield
            return
        _full.leave()
        try:
            with self._before.again():
                yield
        finally:
            _full.enter()


def told(device: torch.device) -> str | None:
    """What around this call computes in less than the dtype of tensors on a device, in words; or None."""
    dtype = Autocast().dtype(device)
    if dtype is not None:
        return f"autocast computes in {str(dtype).removeprefix('torch.')}"
    if device.type != "cuda":
        return None
    used: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)  # type: ignore[attr-defined]  # no types there
    return "TF32 is on" if any(one.fp32_precision == "tf32" for one in used) else None


def coarsest(dtype: torch.dtype, device: torch.device, autocast: Autocast) -> torch.dtype:
    """The coarser of a dtype and of what autocast and TF32 make of it on a device."""
    cast = autocast.dtype(device)
    if cast is None and dtype == torch.float32 and told(device) == "TF32 is on":
        # Both have ten bits.
        cast = torch.float16
    return dtype if cast is None else max(dtype, cast, key=lambda each: torch.finfo(each).eps)
