"""What runs a graph: the graph itself, or what a compiler makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from hesse._linearize.program.graph import Graph

Run = Callable[[list[Tensor]], Sequence[Tensor]]
"""Takes a list of tensors, which it may empty, and returns the results."""


def run_as_it_is(graph: Graph) -> Run:
    """Run a graph operator by operator."""
    return lambda given: graph(*given)


def without_wrapper(run: Run) -> Run:
    """What has run once, without what Inductor does around it: tuning ends with the first call."""
    inner: Run | None = getattr(run, "current_callable", None)
    return run if inner is None else inner
