"""All kernels of a half in few C++ files, since most of the time that a small kernel takes goes into reading headers.

A C++ file of one kernel takes 0.9 s, two thirds of them for PyTorch's headers, precompiled as they are.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Private: what the code that Inductor writes around kernels calls to compile them.
import torch._inductor.async_compile as async_compile
from torch._inductor.async_compile import AsyncCompile, get_compile_threads
from torch._inductor.codecache import CppPythonBindingsCodeCache

from hesse._linearize.program.undisturbed import tracing
from hesse._linearize.program.wrapper import Kernel, digest_of, load_kernel

# More files make use of more threads, and read the headers more often.
_FEWEST = 4
# Of 64 bits and little-endian: the table of sections is at the end.
_ELF = b"\x7fELF\x02\x01"

_damaged: list[str] = []


@contextlib.contextmanager
def together() -> Iterator[list[str]]:
    """Within it the kernels of a half share C++ files; those that other threads compile meanwhile do as well.

    The list takes the names of compiled files that were damaged, and were compiled again.
    """
    with tracing:
        before = async_compile.AsyncCompile
        async_compile.AsyncCompile = _Together  # type: ignore[misc]  # a class of the same methods
        _damaged.clear()
        try:
            yield _damaged
        finally:
            async_compile.AsyncCompile = before  # type: ignore[misc]  # see above


class _Pending:
    """A kernel that is not compiled yet."""

    def __init__(self, source: str) -> None:
        self.source = source


class _Together(AsyncCompile):
    """Compiles kernels when all are known."""

    def cpp_pybinding(self, argtypes: list[str], source_code: str) -> Any:
        """The kernel, once ``wait`` was called."""
        sources: list[str] = []

        class Source(CppPythonBindingsCodeCache):
            @classmethod
            def load_async(cls, main_code: str, *_: Any, **__: Any) -> Any:
                sources.append(main_code)

        Source.load_pybinding_async(argtypes, source_code)
        return _Pending(*sources)

    def wait(self, scope: dict[str, Any]) -> None:
        """Put the kernels into the variables of the code around them."""
        pending = {name: value for name, value in scope.items() if isinstance(value, _Pending)}
        num_files = max(1, min(get_compile_threads(), len(pending) // _FEWEST))
        files = [list(pending.items())[i::num_files] for i in range(num_files if pending else 0)]
        # Files of earlier halves may be gone.
        _File.cache.clear()
        sources = [_joined([kernel.source for _, kernel in file]) for file in files]
        loads = [self._load(source) for source in sources]
        for file, source, load in zip(files, sources, loads, strict=True):
            names, path = [name for name, _ in file], load().path
            try:
                scope |= _kernels_of(path, names)
            except ImportError:
                _damaged.append(path)
                Path(path).unlink()
                _File.cache.clear()
                scope |= _kernels_of(self._load(source)().path, names)
        super().wait(scope)

    def _load(self, source: str) -> Any:
        # Without a pool of processes, what is submitted runs at once, under the lock that it waits for.
        return _File.load_async(source, "cpu", submit_fn=self.submit if get_compile_threads() > 1 else None)


class _File(CppPythonBindingsCodeCache):
    """Files of several kernels, which are several modules of Python."""

    class _Path:
        def __init__(self, path: str) -> None:
            self.path = path

    @classmethod
    def _load_library_inner(cls, path: str, key: str) -> Any:
        return cls._Path(path)


# Its own, since what it holds are paths.
_File.cache = {}


def _kernels_of(path: str, names: Sequence[str]) -> dict[str, Any]:
    """The kernels of a file.

    Raises:
        ImportError: the file is damaged.
    """
    # Loading a file that was cut off ends the process.
    with open(path, "rb") as file:
        head, size = file.read(64), os.fstat(file.fileno()).st_size
    if head.startswith(_ELF) and len(head) == 64:
        (table,), (each, count) = struct.unpack_from("<Q", head, 0x28), struct.unpack_from("<HH", head, 0x3A)
        if table + each * count > size:
            raise ImportError("The file is too short.")
    digest = digest_of(path)
    return {name: load_kernel(Kernel(name, path, digest, _name(i))) for i, name in enumerate(names)}


def _name(i: int) -> str:
    return f"kernel_{i}"


def _joined(sources: Sequence[str]) -> str:
    """One C++ file of several, each with its kernel and the module of Python that holds it."""
    includes = [line for source in sources for line in source.splitlines() if line.lstrip().startswith("#include")]
    parts = [*dict.fromkeys(includes)]
    for i, source in enumerate(sources):
        # Headers that were read already are empty within the namespace.
        parts += [f"#define kernel {_name(i)}", f"#define PyInit_kernel PyInit_{_name(i)}", f"namespace file_{i} {{"]
        parts += [source, "}", "#undef kernel", "#undef PyInit_kernel"]
    return "\n".join(parts)
