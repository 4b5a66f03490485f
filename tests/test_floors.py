"""Floors look only down: no file imports from a floor above its own, and no files import one another in a circle."""

from __future__ import annotations

import ast
import functools
import pathlib
from collections.abc import Iterable, Mapping

SOURCE = pathlib.Path(__file__).parents[1] / "src"

FLOORS = [
    {"_base"},
    {"_ranks"},
    {"_rules"},
    {"_autograd"},
    {"_linearize"},
    {"_data"},
    {"_sparse"},
    {"_operators"},
    {"functional", "func"},
    {"_solvers"},
    {"_checking"},
    {"_report"},
    {"_cli"},
    # The package itself and its script, which show what is below.
    {"", "__main__"},
]
"""What stands on each floor, from the ground up."""

Graph = Mapping[str, Iterable[str]]


def modules() -> dict[str, pathlib.Path]:
    found = {}
    for path in (SOURCE / "hesse").rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(code: str, known: Iterable[str]) -> set[str]:
    """The modules of hesse that a file imports, anywhere in it: inside functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in known else str(node.module))
    return {name for name in found if name.split(".")[0] == "hesse"}


def floor(module: str) -> int:
    (number,) = [number for number, names in enumerate(FLOORS) if [*module.split("."), ""][1] in names]
    return number


def circles(graph: Graph) -> list[list[str]]:
    """Sets of modules each of which reaches all the others (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = lowest[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
            if other in stack:
                lowest[name] = min(lowest[name], lowest[other])
        if lowest[name] == index[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1 or name in graph[name]:
                found.append(sorted(component))

    for name in graph:
        if name not in index:
            visit(name)
    return found


@functools.cache
def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(path.read_text(), known) for name, path in known.items()}


def test_no_file_imports_from_a_floor_above_its_own() -> None:
    upward = [
        f"{name} imports {other}" for name, others in graph().items() for other in others if floor(other) > floor(name)
    ]
    assert upward == []


def test_no_files_import_one_another_in_a_circle() -> None:
    assert circles(graph()) == []


def test_imports_are_read_wherever_they_stand() -> None:
    code = (
        "import torch, hesse.b\nif TYPE_CHECKING:\n    from hesse.a import c\ndef f():\n    from hesse.a import Name\n"
    )
    assert imports(code, {"hesse.a", "hesse.a.c", "hesse.b"}) == {"hesse.a", "hesse.a.c", "hesse.b"}
    # A reader that finds nothing would find no fault either.
    assert len(set().union(*graph().values())) > 0.9 * len(modules())


def test_circles_are_found_through_several_files() -> None:
    assert circles({"a": ["b"], "b": ["c", "d"], "c": ["a"], "d": ["e"], "e": [], "f": ["f"]}) == [
        ["a", "b", "c"],
        ["f"],
    ]
