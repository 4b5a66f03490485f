"""The names that compiled Python code reads and sets, the functions in it too."""

from __future__ import annotations

import dis
import functools
import types
from typing import Any

# What reads attributes whose names are strings.
_BY_WORDS = frozenset({"getattr", "hasattr", "vars", "__dict__", "attrgetter"})


@functools.lru_cache(maxsize=1024)
def global_names(code: types.CodeType) -> frozenset[str]:
    """The globals that code reads, the functions in it too."""
    names = {instruction.argval for instruction in dis.get_instructions(code) if instruction.opname == "LOAD_GLOBAL"}
    return frozenset(names.union(*[global_names(inner) for inner in _inner(code)]))


@functools.lru_cache(maxsize=1024)
def imported(code: types.CodeType, package: str | None) -> tuple[str, ...]:
    """The modules that code of a package imports, the functions in it too."""
    found: list[str] = []
    before: list[Any] = [None, None]
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            # The level and the names are on the stack.
            level = before[0] if isinstance(before[0], int) else 0
            found.append(_absolute(instruction.argval, package, level))
            if before[1] is None and "." in instruction.argval:
                found.append(instruction.argval.partition(".")[0])  # import a.b binds a
        if instruction.opname != "EXTENDED_ARG":
            before = [before[1], instruction.argval]
    return tuple(found + [name for inner in _inner(code) for name in imported(inner, package)])


def _absolute(name: str, package: str | None, level: int) -> str:
    """The full name of a module that a package names so many levels up."""
    if not level:
        return str(name)
    return ".".join([part for part in ((package or "").rsplit(".", level - 1)[0], name) if part])


@functools.lru_cache(maxsize=1024)
def stored_globals(code: types.CodeType) -> frozenset[str]:
    """The globals that code sets, the functions in it too."""
    sets = ("STORE_GLOBAL", "DELETE_GLOBAL")
    names = {instruction.argval for instruction in dis.get_instructions(code) if instruction.opname in sets}
    return frozenset(names.union(*[stored_globals(inner) for inner in _inner(code)]))


@functools.lru_cache(maxsize=1024)
def stored_cells(code: types.CodeType) -> frozenset[str]:
    """The variables of surrounding functions that code sets, the functions in it too."""
    sets = ("STORE_DEREF", "DELETE_DEREF")
    names = {instruction.argval for instruction in dis.get_instructions(code) if instruction.opname in sets}
    return frozenset(names.union(*[stored_cells(inner) for inner in _inner(code)])).intersection(code.co_freevars)


@functools.lru_cache(maxsize=1024)
def attribute_names(code: types.CodeType) -> frozenset[str]:
    """The names of attributes, and globals, that code reads, the functions in it too; words where it reads by words."""
    words = [constant for constant in code.co_consts if isinstance(constant, str) and constant.isidentifier()]
    names = {*code.co_names, *(words if _BY_WORDS.intersection(code.co_names) else [])}
    return frozenset(names.union(*[attribute_names(inner) for inner in _inner(code)]))


def _inner(code: types.CodeType) -> list[types.CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
