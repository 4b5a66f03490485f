"""Memory budgets: what ``memory=`` means, and how much there is now.

On a GPU too large a request raises; on a Linux CPU the process is killed instead. So a budget is set beforehand,
by what the machine, the control group (of a container or a job) and the process's own limit still allow.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from hesse._base import pages
from hesse._base.errors import MemoryBudgetError

DEFAULT_FRACTION = 0.5
"""The part of the available memory that a budget takes when none is given."""
QUESTION_FRACTION = 0.25
"""The part of the total memory that the vectors of a question take when no budget is given."""

_PREFIXES = ("", "K", "M", "G", "T")
_UNITS = {f"{prefix}B": 1000**i for i, prefix in enumerate(_PREFIXES)} | {
    f"{prefix}IB": 1024**i for i, prefix in enumerate(_PREFIXES)
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B)\s*", re.IGNORECASE)
# The words of PyTorch's allocators (CPU, CUDA, HIP, MPS, XPU) and the codes of the libraries that it calls: cuBLAS,
# cuDNN, cuSOLVER, cuSPARSE, cuFFT, their like for HIP, MIOpen and SYCL. Metal calls a buffer too large "invalid".
_OUT_OF_MEMORY = re.compile(
    r"out[ _]of[ _](device[ _]|host[ _])?memory|OutOfMemory|ALLOC_?FAILED|ALLOCATION_FAILED|rocblas_status_memory_error"
    r"|not enough memory: you tried|can't allocate memory|std::bad_alloc|Invalid buffer size",
    re.IGNORECASE,
)
# How allocators say what they were asked for.
_ASKED_FOR = re.compile(r"allocate (\d[\d.]*) ?([KMGT]?i?B|b)")
# Of version 1 of the control groups: "no limit" is the largest number of whole pages.
_NO_LIMIT = 2**60


def budget(memory: int | str | None, device: torch.device) -> int:
    """The bytes that ``memory=`` allows.

    Args:
        memory: a number of bytes; a size with its unit, such as ``"2GiB"`` or ``"500 MB"``; or None for
            ``DEFAULT_FRACTION`` of what is available on ``device`` now.
        device: where the memory is taken.

    Raises:
        ValueError: ``memory`` is no size, or not positive.
        TypeError: ``memory`` is neither a number of bytes nor a string.

    Example:
        >>> import torch
        >>> budget("2GiB", torch.device("cpu"))
        2147483648
    """
    if memory is None:
        return int(DEFAULT_FRACTION * available(device))
    if isinstance(memory, bool) or not isinstance(memory, int | str):
        raise TypeError(f'memory should be a number of bytes or a size such as "2GiB" but has type {type(memory)}.')
    size = memory if isinstance(memory, int) else _parsed(memory)
    if size <= 0:
        raise ValueError(f"memory should be positive but is {memory!r}.")
    return size


def question_budget(memory: int | str | None, device: torch.device) -> int:
    """The bytes that ``memory=`` of a question allows its vectors; by default a share of the total memory.

    What is free differs from run to run, and the digits of a question depend on how many vectors it holds.
    """
    return int(QUESTION_FRACTION * total(device)) if memory is None else budget(memory, device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator raised it: a GPU's, the CPU's (a plain ``RuntimeError``), or Python's own."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def tell(error: BaseException | None, who: str) -> None:
    """Raise one sentence about ``who`` in place of what an allocator raised; do nothing about other errors."""
    if error is None or isinstance(error, MemoryBudgetError) or not is_out_of_memory(error):
        return
    found = _ASKED_FOR.search(str(error))
    more = "more" if found is None else f"{readable(_bytes(found))} more"
    raise MemoryBudgetError(
        f"{who} ran out of memory: {more} could not be had. Ask for fewer vectors at once, by fewer columns, probes or"
        " steps or a smaller rank, or allow more memory."
    ) from error


def readable(size: int) -> str:
    """Bytes in the largest binary unit that they fill."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024
    return f"{amount:.4g} GiB"


def _parsed(text: str) -> int:
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f'memory should be a number of bytes or a size such as "2GiB" or "500 MB" but is {text!r}.')
    return _bytes(found)


def _bytes(found: re.Match[str]) -> int:
    """Of a number and a unit."""
    return int(float(found[1]) * _UNITS[found[2].upper()])


def available(device: torch.device, root: Path = Path("/")) -> int:
    """Bytes that can be taken on ``device`` now without reaching any limit.

    On a CPU the least of what the kernel calls available, what each control group around the process leaves (file
    caches that it can drop counted as free), and what the process's address space may still grow by.

    Args:
        device: a CPU or CUDA device.
        root: where ``proc`` and ``sys`` are.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What the allocator holds but nothing uses can be used again.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    left = [
        *_of_machine(root, "MemAvailable:"),
        *[most - used for most, used in _groups(root)],
        *_left_of_address_space(root),
    ]
    # Pages that are kept can be used again.
    return max(0, min(left) + pages.reusable()) if left else 2**62


def total(device: torch.device, root: Path = Path("/")) -> int:
    """Bytes that ``device`` has, whoever holds them: the device, or the least of the machine and the limits around.

    Args:
        device: any device; one that does not say how much it has counts as the machine.
        root: where ``proc`` and ``sys`` are.
    """
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    report = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    if report is not None:
        return int(report(device)[1])
    most = [*_of_machine(root, "MemTotal:"), *[most for most, _ in _groups(root)], *_limits_of_address_space()]
    return min(most) if most else 2**36


def _of_machine(root: Path, name: str) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith(name):
            yield int(line.split()[1]) * 1024


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """Limits of the control groups around the process, and what is used of each."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            base, limit, usage, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit, usage, cache = (
                "sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
        else:
            continue
        # The group and all above it; inside a container the path may be that of the host, so the top one too.
        group = Path(path.strip().lstrip("/"))
        for part in (group, *group.parents):
            yield from _group(root / base / part, limit, usage, cache)


def _group(folder: Path, limit: str, usage: str, cache: str) -> Iterator[tuple[int, int]]:
    most, used = _number(folder / limit), _number(folder / usage)
    if most is not None and used is not None and most < _NO_LIMIT:
        reclaimable = sum(int(line.split()[1]) for line in _lines(folder / "memory.stat") if line.split()[0] == cache)
        yield most, max(0, used - reclaimable)


def _limits_of_address_space() -> Iterator[int]:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        yield limit


def _left_of_address_space(root: Path) -> Iterator[int]:
    for limit in _limits_of_address_space():
        for line in _lines(root / "proc/self/status"):
            if line.startswith("VmSize:"):
                yield limit - int(line.split()[1]) * 1024


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
