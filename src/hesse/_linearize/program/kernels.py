"""All kernels of a half in few C++ files, since most of the time that a small kernel takes goes into reading headers.

A C++ file of one kernel takes 0.9 s, two thirds of them for PyTorch's headers, precompiled as they are.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

# Private: what the code that Inductor writes around kernels calls to compile them.
import torch._inductor.async_compile as async_compile
from torch._inductor.async_compile import AsyncCompile, get_compile_threads
from torch._inductor.codecache import CppPythonBindingsCodeCache

from hesse._linearize.program.wrapper import Kernel, digest_of, load_kernel

# More files make use of more threads, and read the headers more often.
_FEWEST = 4

_compiling = threading.RLock()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within it the kernels of a half share C++ files; those that other threads compile meanwhile do as well."""
    with _compiling:
        before = async_compile.AsyncCompile
        async_compile.AsyncCompile = _Together  # type: ignore[misc]  # a class of the same methods
        try:
            yield
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
        loads = [
            _File.load_async(_joined([kernel.source for _, kernel in file]), "cpu", submit_fn=self.submit)
            for file in files
        ]
        for file, load in zip(files, loads, strict=True):
            path = load().path
            digest = digest_of(path)
            scope |= {name: load_kernel(Kernel(name, path, digest, _name(i))) for i, (name, _) in enumerate(file)}
        super().wait(scope)


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
