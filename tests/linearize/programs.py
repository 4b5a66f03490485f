"""Operators on programs that are captured, made functional and parted, but run without a compiler, which is quick."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import hesse
from hesse._linearize.program import backends
from hesse._linearize.program.backends import EAGER, Backend
from hesse._linearize.program.graph import Graph
from hesse._linearize.program.runs import Run


def hessian(
    func: Callable[..., Any], inputs: Any, *, backend: Backend = EAGER, engine: str = "compiled", **options: Any
) -> hesse.Hessian:
    """A Hessian by a captured program."""
    with running(backend):
        return hesse.Hessian(func, inputs, engine=engine, **options)


def jacobian(func: Callable[..., Any], inputs: Any, **options: Any) -> hesse.Jacobian:
    """A Jacobian by a captured program."""
    with running(EAGER):
        return hesse.Jacobian(func, inputs, engine="compiled", **options)


@contextlib.contextmanager
def running(backend: Backend) -> Iterator[None]:
    """Programs that are made meanwhile run so, and not by Inductor."""
    with mock.patch.object(backends, "INDUCTOR", backend):
        yield


def compiling(compile: Callable[[Graph], Run]) -> Backend:
    """The backend whose halves are what ``compile`` makes of their graphs."""
    return EAGER._replace(compile=compile)


def wrong(after: int = 0) -> Backend:
    """A backend whose halves are off by one part in a hundred, from the given one on."""
    made: list[None] = []

    def compile(graph: Graph) -> Run:
        made.append(None)
        factor = 1.01 if len(made) > after else 1.0
        return lambda given: [result * factor for result in graph(*given)]

    return compiling(compile)
