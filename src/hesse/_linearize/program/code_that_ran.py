"""Which functions of the user's ran while a function was captured, and the same functions in another process."""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from types import CodeType, FrameType, FunctionType
from typing import Any

from hesse._autograd.captured import function_of, is_the_users
from hesse._linearize.program.dependences import Unknown, inner_codes

OF_TORCH = ("typing_extensions", "sympy", "mpmath", "networkx", "filelock", "fsspec", "jinja2", "torchgen", "functorch")
"""What PyTorch loads and runs itself."""

# Private: the function of Python's by which a module is found and run.
_IMPORT: CodeType | None = getattr(getattr(importlib._bootstrap, "_find_and_load", None), "__code__", None)

Name = tuple[str, str]
"""A module, and the qualified name of a function in it."""


class Ran:
    """The code that ran, with the name of its module."""

    def __init__(self) -> None:
        self.modules: dict[CodeType, str | None] = {}
        self._calls = self._importing = 0
        self._is_complete = True

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        # What is imported on the way is of no effect until it is called.
        if frame.f_code is _IMPORT and event in ("call", "return"):
            self._importing += 1 if event == "call" else -1
        elif event == "call" and not self._importing and frame.f_code not in self.modules:
            self.modules[frame.f_code] = frame.f_globals.get("__name__")

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Within it code is taken note of, unless a profiler of the user's runs."""
        self._calls += 1
        if sys.getprofile() is not None:
            self._is_complete = False
            yield
            return
        sys.setprofile(self._note)
        try:
            yield
        finally:
            # Whoever set another meanwhile keeps it, and what ran since is not known.
            if sys.getprofile() == self._note:
                sys.setprofile(None)
            else:
                self._is_complete = False

    def names(self, reached: Sequence[CodeType]) -> list[Name]:
        """The names of all functions of the user's that ran, beside those that were reached already.

        Raises:
            Unknown: there is code that no name leads to.
        """
        if not (self._calls and self._is_complete):
            raise Unknown("a profiler of the user's")
        # A collection of garbage may come at any time.
        apart = {getattr(callback, "__code__", None) for callback in gc.callbacks}
        ran = {code: module for code, module in self.modules.items() if code not in apart}
        users = {code: module for code, module in ran.items() if is_the_users(module)}
        # Python makes the constructor of a named tuple of the names of its fields alone.
        named_tuple = "namedtuple_"
        users = {
            code: module
            for code, module in users.items()
            if (module or "").split(".")[0] not in OF_TORCH and not (module or "").startswith(named_tuple)
        }
        found: dict[Name, None] = {}
        for code, module in users.items():
            if any(_contains(outer, code, users) for outer in reached):
                continue
            name = module or "", code.co_qualname.partition(".<locals>")[0]
            outer = function_named(*name)
            if outer is None or not _contains(outer.__code__, code, users):
                raise Unknown(f"the code of {code.co_qualname} in {module}, which no name leads to")
            found[name] = None
        return sorted(found)


def _contains(outer: CodeType, code: CodeType, ran: dict[CodeType, str | None]) -> bool:
    """Whether code is that of a function, or of one within it that was made while it ran."""
    return outer is code or outer == code or (outer in ran and any(inner == code for inner in inner_codes(outer)))


def function_named(module: str, name: str) -> FunctionType | None:
    """The function that a name leads to in this process, without what decorates it."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = inspect.getattr_static(found, part, None)
    found = function_of(found)
    while isinstance(found, FunctionType) and hasattr(found, "__wrapped__"):
        found = function_of(found.__wrapped__)
    return found if isinstance(found, FunctionType) else None
