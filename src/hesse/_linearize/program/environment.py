"""What the code of every program depends on: versions, the processor, settings; and digests of bytes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hesse._autograd.captured import is_users_code
from hesse._linearize.program.code_that_ran import OF_TORCH
from hesse._linearize.program.dependences import Unknown

DIGEST = 40
"""Characters of a digest."""


def digest_of_bytes(content: bytes) -> str:
    """Tells files apart."""
    return hashlib.blake2b(content, digest_size=DIGEST // 2).hexdigest()


@functools.cache
def _installed() -> tuple[Any, ...]:
    """Versions, the processor, and the state of hesse's own files."""
    package = Path(__file__).parents[2]
    files = [(str(path.relative_to(package)), path.stat()) for path in sorted(package.rglob("*.py"))]
    versions = {}
    for name in ("torch", "numpy", "scipy", *OF_TORCH):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    own = hashlib.blake2b(repr([(name, at.st_size, at.st_mtime_ns) for name, at in files]).encode()).hexdigest()
    processor = sorted(getattr(torch.cpu, "get_capabilities", dict)().items()), torch.backends.cpu.get_cpu_capability()
    return own, versions, torch.version.git_version, sys.version, processor


def environment() -> tuple[Any, ...]:
    """All of it as it is now.

    Raises:
        Unknown: Inductor does not tell its options, or a function of PyTorch's was replaced by one of the user's.
    """
    variables = sorted(
        (name, value) for name, value in os.environ.items() if name.startswith(("TORCH", "ATEN_", "PYTORCH_"))
    )
    flags = torch.backends.mkldnn.enabled, torch.__version__, torch.get_num_threads()
    return (
        _installed(),
        [pair for pair in variables if pair[0] != "TORCHINDUCTOR_CACHE_DIR"],
        flags,
        _options(),
        _replaced(),
    )


def _replaced() -> list[tuple[Any, ...]]:
    """Functions among PyTorch's that are a library's, as transformers adds one to modules."""
    return [
        (holder.__name__, name, value.__module__, _version_of(value), value.__code__.co_code)
        for holder in _holders_of_functions()
        for name, value in vars(holder).items()
        if is_users_code(value)
    ]


def _version_of(function: types.FunctionType) -> str:
    """The version of the installed package that a function is of."""
    name, file = function.__module__.partition(".")[0], function.__code__.co_filename
    if any(file.startswith(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    raise Unknown(f"{function.__qualname__} in the place of a function of PyTorch's")


@functools.cache
def _holders_of_functions() -> list[Any]:
    layers = [kind for kind in vars(torch.nn).values() if isinstance(kind, type)]
    parts = torch.nn.functional, torch.linalg, torch.special, torch.fft
    return [torch, Tensor, torch._C.TensorBase, *parts, *layers]


def _options() -> str:
    """The options of Inductor: nothing where they are as they come, since loading them takes a second."""
    if "torch._inductor.config" not in sys.modules:
        return ""
    from hesse._linearize.program import inductor

    now = inductor.digest_of_options()
    if now is None:
        raise Unknown("the options of Inductor")
    return "" if now == inductor.AS_THEY_COME else now
