"""Two pretended CUDA devices, for a build of PyTorch without CUDA: ``start()`` them before torch is imported.

Tensors say ``cuda:0`` and live in host memory. ``pretended.cpp`` says what is refused and counted. A process that has
started them keeps them, so the checks on them run in a process of their own: see ``test_pretended.py``.
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
NUMBER = 2
TOTAL_MEMORY = 8 * 2**30

_library: Any = None


def start() -> None:
    """Register the devices, and answer what ``torch.cuda`` is asked for."""
    global _library
    assert "torch" not in sys.modules, "PyTorch looks for devices when it is imported."
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent
    library = _built(folder)
    for path in (folder / "lib/libc10.so", *sorted(folder.glob("lib/libgomp*")), folder / "lib/libtorch_cpu.so"):
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    _library = ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    for name in ("allocated", "peak", "limit", "launches", "syncs"):
        getattr(_library, f"pretended_{name}").restype = ctypes.c_int64
    _library.pretended_set_limit.argtypes = [ctypes.c_int, ctypes.c_int64]
    _answer()


def _built(torch_folder: Path) -> Path:
    """The compiled device, from a file that later processes read too."""
    key = hashlib.sha256(SOURCE.read_bytes() + (torch_folder / "version.py").read_bytes()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"pretended-device-{os.getuid()}-{key}.so"
    if not library.exists():
        includes = [torch_folder / "include", torch_folder / "include/torch/csrc/api/include"]
        unfinished = library.with_suffix(f".{os.getpid()}")
        command = ["g++", "-std=c++20", "-O0", "-shared", "-fPIC", SOURCE, "-o", unfinished]
        command += [f"-I{path}" for path in (*includes, sysconfig.get_paths()["include"])]
        command += ["-DAT_PER_OPERATOR_HEADERS", f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu"]
        subprocess.run(command, check=True)
        os.replace(unfinished, library)
    return library


def _answer() -> None:
    import torch

    properties = SimpleNamespace(
        major=9, minor=0, multi_processor_count=132, name="pretended", total_memory=TOTAL_MEMORY, warp_size=32
    )
    answers: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "_initialized": True,
        "is_initialized": lambda: True,
        "is_available": lambda: True,
        "device_count": lambda: NUMBER,
        "current_device": _index,
        "set_device": lambda device: _library.pretended_set_device(_index(device)),
        "device": _Device,
        "synchronize": lambda device=None: torch.accelerator.synchronize(_index(device)),
        "mem_get_info": _memory,
        "memory_allocated": allocated,
        "memory_reserved": allocated,
        "max_memory_allocated": peak,
        "reset_peak_memory_stats": lambda device=None: _library.pretended_reset_peak(_index(device)),
        "empty_cache": lambda: None,
        "is_current_stream_capturing": lambda: False,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: properties.name,
        "default_generators": tuple([torch.Generator(f"cuda:{index}") for index in range(NUMBER)]),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    for name in ("device_count", "current_device"):
        setattr(torch.cuda.random, name, answers[name])


def _index(device: Any = None) -> int:
    import torch

    if isinstance(device, int):
        return device
    found = None if device is None else torch.device(device).index
    return int(_library.pretended_device()) if found is None else found


class _Device:
    """``torch.cuda.device``."""

    def __init__(self, device: Any) -> None:
        self._inside = _index(device)

    def __enter__(self) -> None:
        self._outside = _library.pretended_device()
        _library.pretended_set_device(self._inside)

    def __exit__(self, *exception: object) -> None:
        _library.pretended_set_device(self._outside)


def _memory(device: Any = None) -> tuple[int, int]:
    total = _library.pretended_limit(_index(device)) or TOTAL_MEMORY
    return total - allocated(device), total


def allocated(device: Any = None) -> int:
    """Bytes of a device that tensors hold."""
    return int(_library.pretended_allocated(_index(device)))


def peak(device: Any = None) -> int:
    """The most bytes that tensors held since this was reset."""
    return int(_library.pretended_peak(_index(device)))


@contextlib.contextmanager
def counted() -> Iterator[SimpleNamespace]:
    """Counts ``launches`` and ``syncs`` while the block runs; they are known at its end."""
    counts = SimpleNamespace(launches=0, syncs=0)
    launches, syncs = _library.pretended_launches(), _library.pretended_syncs()
    yield counts
    counts.launches = _library.pretended_launches() - launches
    counts.syncs = _library.pretended_syncs() - syncs


@contextlib.contextmanager
def limited(size: int, device: int = 0) -> Iterator[None]:
    """A device of so many bytes."""
    _library.pretended_set_limit(device, size)
    try:
        yield
    finally:
        _library.pretended_set_limit(device, 0)


@contextlib.contextmanager
def without_float64() -> Iterator[None]:
    """Devices that have no float64."""
    _library.pretended_allow_float64(0)
    try:
        yield
    finally:
        _library.pretended_allow_float64(1)
