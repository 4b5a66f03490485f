"""Two pretended CUDA devices, for a build of PyTorch without CUDA; import this before torch, in a process of its own.

Tensors say ``cuda:0`` and live in host memory. ``pretended.cpp`` says what is refused and counted.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SOURCE = Path(__file__).with_name("pretended.cpp")
TOTAL_MEMORY = 8 * 2**30
_FOUND = importlib.util.find_spec("torch")
assert _FOUND is not None
assert _FOUND.origin is not None
TORCH = Path(_FOUND.origin).parent


def build() -> Path:
    """The compiled device, from a folder that later processes read too."""
    key = hashlib.sha256(SOURCE.read_bytes() + (TORCH / "version.py").read_bytes()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"pretended-device-{os.getuid()}-{key}.so"
    if not library.exists():
        includes = [TORCH / "include", TORCH / "include/torch/csrc/api/include", sysconfig.get_paths()["include"]]
        unfinished = library.with_suffix(f".{os.getpid()}")
        subprocess.run(
            ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", *[f"-I{path}" for path in includes]]
            + [str(SOURCE), "-o", str(unfinished), f"-L{TORCH / 'lib'}", "-lc10", "-ltorch_cpu"],
            check=True,
        )
        os.replace(unfinished, library)
    return library


def load() -> ctypes.CDLL:
    """Register the devices, before PyTorch has looked for any."""
    assert "torch" not in sys.modules, "PyTorch looks for devices when it is imported."
    library = build()
    folder = TORCH / "lib"
    for path in (folder / "libc10.so", *sorted(folder.glob("libgomp*")), folder / "libtorch_cpu.so"):
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    loaded = ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    for name in ("allocated", "peak", "limit", "launches", "syncs"):
        getattr(loaded, f"pretended_{name}").restype = ctypes.c_int64
    loaded.pretended_set_limit.argtypes = [ctypes.c_int, ctypes.c_int64]
    return loaded


_LIBRARY = load()

import torch  # noqa: E402  # after the devices


def _index(device: Any = None) -> int:
    if isinstance(device, int):
        return device
    found = None if device is None else torch.device(device).index
    return _LIBRARY.pretended_device() if found is None else found


class _Device:
    """``torch.cuda.device``."""

    def __init__(self, device: Any) -> None:
        self._inside = _index(device)

    def __enter__(self) -> None:
        self._outside = _LIBRARY.pretended_device()
        _LIBRARY.pretended_set_device(self._inside)

    def __exit__(self, *exception: object) -> None:
        _LIBRARY.pretended_set_device(self._outside)


def _free(device: Any = None) -> tuple[int, int]:
    total = _LIBRARY.pretended_limit(_index(device)) or TOTAL_MEMORY
    return total - allocated(device), total


def allocated(device: Any = None) -> int:
    """Bytes of a device that tensors hold."""
    return int(_LIBRARY.pretended_allocated(_index(device)))


_PROPERTIES = SimpleNamespace(
    major=9, minor=0, multi_processor_count=132, name="pretended", total_memory=TOTAL_MEMORY, warp_size=32
)
_REPLACED: dict[str, Any] = {
    "_lazy_init": lambda: None,
    "_initialized": True,
    "is_initialized": lambda: True,
    "is_available": lambda: True,
    "device_count": lambda: 2,
    "current_device": _index,
    "set_device": lambda device: _LIBRARY.pretended_set_device(_index(device)),
    "device": _Device,
    "synchronize": lambda device=None: torch.accelerator.synchronize(_index(device)),
    "mem_get_info": _free,
    "memory_allocated": allocated,
    "memory_reserved": allocated,
    "max_memory_allocated": lambda device=None: _LIBRARY.pretended_peak(_index(device)),
    "reset_peak_memory_stats": lambda device=None: _LIBRARY.pretended_reset_peak(_index(device)),
    "empty_cache": lambda: None,
    "get_device_properties": lambda device=None: _PROPERTIES,
    "get_device_capability": lambda device=None: (9, 0),
    "get_device_name": lambda device=None: "pretended",
}
for _name, _value in _REPLACED.items():
    setattr(torch.cuda, _name, _value)
torch.cuda.random.device_count = torch.cuda.device_count
torch.cuda.random.current_device = torch.cuda.current_device
torch.cuda.default_generators = tuple([torch.Generator(f"cuda:{index}") for index in range(2)])


@contextlib.contextmanager
def counted() -> Iterator[SimpleNamespace]:
    """Counts ``launches`` and ``syncs`` while the block runs; they are known at its end."""
    counts = SimpleNamespace(launches=0, syncs=0)
    launches, syncs = _LIBRARY.pretended_launches(), _LIBRARY.pretended_syncs()
    yield counts
    counts.launches = _LIBRARY.pretended_launches() - launches
    counts.syncs = _LIBRARY.pretended_syncs() - syncs


@contextlib.contextmanager
def limited(size: int, device: int = 0) -> Iterator[None]:
    """A device of so many bytes."""
    _LIBRARY.pretended_set_limit(device, size)
    try:
        yield
    finally:
        _LIBRARY.pretended_set_limit(device, 0)


@contextlib.contextmanager
def without_float64() -> Iterator[None]:
    """Devices that have no float64."""
    _LIBRARY.pretended_allow_float64(0)
    try:
        yield
    finally:
        _LIBRARY.pretended_allow_float64(1)
