"""Pages of the CPU's memory: keep them between products, or take large ones.

The GNU C library maps each block of more than 32 MiB afresh and gives it back when it is freed, so that every product
of a large model first touches new pages, which the system has to fill with zeros. See mallopt(3).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import sys
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
# What was set before cannot be read. These are the largest thresholds that glibc itself would come to.
_AFTERWARDS = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20}
# Whoever has set one of these has decided.
_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")

# Of a process that uses less, no question takes long enough for its pages to matter.
_LARGE = 256 * 2**20

# Two large pages of 2 MiB.
_LARGE_BLOCK = 4 * 2**20

_lock = threading.Lock()
_uses = 0


@contextlib.contextmanager
def keep_memory() -> Iterator[None]:
    """Keep the pages of freed memory, for the next product.

    On a CPU a product of a large model spends a third of its time on pages that the last one has just given back.
    Solvers and estimators keep pages while they run; this does it for products in a loop of your own. Uses nest and
    overlap; the end of the last one gives all unused pages back to the system. Meanwhile the process holds the most
    memory that it has needed so far. Threads other than the main one gain less.

    Nothing is done where memory is not handed out by the GNU C library, nor where a variable of the environment, such
    as ``MALLOC_TRIM_THRESHOLD_`` or ``GLIBC_TUNABLES``, already sets how it is.

    Example:
        >>> import torch, hesse
        >>> H = hesse.Hessian(lambda x: (x**3).sum(), torch.ones(2))
        >>> with hesse.keep_memory():
        ...     products = [H @ v for v in torch.eye(2)]
        >>> products[0]
        tensor([6., 0.])
    """
    global _uses
    with _lock:
        _uses += 1
        libc = _libc() if _uses == 1 else None
        if libc is not None:
            libc.mallopt(_MMAP_MAX, 0)
            libc.mallopt(_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        with _lock:
            _uses -= 1
            libc = _libc() if _uses == 0 else None
            if libc is not None:
                for option, value in _AFTERWARDS.items():
                    libc.mallopt(option, value)
                libc.malloc_trim(0)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """For blocks that stay: map large ones by themselves, even while pages are kept.

    Between blocks that come and go with each product they would leave holes, which the next product cuts up.
    """
    libc = _libc() if _uses else None
    if libc is not None:
        libc.mallopt(_MMAP_MAX, _AFTERWARDS[_MMAP_MAX])
    try:
        yield
    finally:
        with _lock:
            if libc is not None and _uses:
                libc.mallopt(_MMAP_MAX, 0)


def empty(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialized vector, on a CPU in large pages where the system has them.

    40 MB that are mapped afresh take 10,000 faults in small pages, which cost as much as eight passes over them.
    """
    made = torch.empty(size, dtype=dtype, device=device)
    libc = _libc() if made.is_cpu and made.nbytes >= _LARGE_BLOCK else None
    if libc is not None:
        # Where the system refuses, pages are small. It takes whole pages only.
        begin = -(-made.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = made.data_ptr() + made.nbytes
        libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_HUGEPAGE)
    return made


def zeros(rows: int, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros (rows, length), of which large ones take no memory before they are written, on a CPU under Linux."""
    nbytes = rows * length * dtype.itemsize
    if device.type != "cpu" or sys.platform != "linux" or nbytes < _LARGE_BLOCK:
        return torch.zeros(rows, length, dtype=dtype, device=device)
    # The allocator's would lie in memory that was used before.
    mapped = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapped.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(mapped, dtype=dtype).view(rows, length)


def trim() -> None:
    """Give kept pages that nothing uses back: what comes next would cut the freed vectors up, and take new ones."""
    libc = _libc() if _uses else None
    if libc is not None:
        libc.malloc_trim(0)


def reusable() -> int:
    """Bytes that the process holds but nothing uses, while pages are kept."""
    libc = _libc() if _uses else None
    return 0 if libc is None else int(libc.mallinfo2().fordblks)


def keeping_if_large() -> contextlib.AbstractContextManager[None]:
    """``keep_memory()`` where the process uses so much memory that some of its blocks must be large."""
    libc = _libc()
    if libc is None:
        return contextlib.nullcontext()
    usage = libc.mallinfo2()
    return keep_memory() if usage.uordblks + usage.hblkhd >= _LARGE else contextlib.nullcontext()


class _Usage(ctypes.Structure):
    """``struct mallinfo2``, in bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


class _Origin(ctypes.Structure):
    """``Dl_info``: the library that an address lies in, and its nearest symbol."""

    _fields_ = [
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    ]


@functools.cache
def _libc() -> ctypes.CDLL | None:
    """The GNU C library, where it hands out this process's memory and the user has not said how."""
    decided = any([name in os.environ for name in _VARIABLES]) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or decided:
        return None
    process = ctypes.CDLL(None)
    try:
        # Another allocator, loaded before the library, has a malloc of its own; return codes would not tell.
        if _base(process, process.malloc) != _base(process, process.gnu_get_libc_version):
            return None
        process.mallinfo2.restype = _Usage
    except AttributeError:
        return None
    return process


def _base(process: ctypes.CDLL, function: object) -> int | None:
    """Where the library that a function lies in is loaded."""
    origin = _Origin()
    found = process.dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(origin))  # type: ignore[arg-type]  # a function pointer
    return origin.base if found else None
