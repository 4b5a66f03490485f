"""How programs are made fast: the passes over their graphs, in order, and what runs the halves.

A captured graph passes through ``simplify`` and is cut into halves, with its scatter-adds sorted. Each half, and the
graph of a lone product, passes through ``half`` before it is compiled. A replay for many vectors is made from the
replay for one by ``many``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from hesse._linearize.program import inductor
from hesse._linearize.program.graph import Graph, Pass, retraced
from hesse._linearize.program.passes.batching_rules import replace_unbatchable
from hesse._linearize.program.passes.expanded_tensors import copy_expanded_tensors
from hesse._linearize.program.passes.inductor_patterns import apply_inductor_patterns
from hesse._linearize.program.passes.many_vectors import vectorize
from hesse._linearize.program.passes.matrix_products import multiply_by_onednn
from hesse._linearize.program.passes.no_ops import drop_no_ops
from hesse._linearize.program.passes.recurrences import compile_steps
from hesse._linearize.program.passes.reductions import join_sums, sum_outer_dimensions
from hesse._linearize.program.passes.shared_matrices import share_matrices
from hesse._linearize.program.passes.small_factors import hold_small_factors
from hesse._linearize.program.passes.stencils import split_stencils
from hesse._linearize.program.passes.sums_of_products import add_products_in_kernels
from hesse._linearize.program.passes.views import reshape_for_view
from hesse._linearize.program.runs import Run, run_as_it_is


class Backend(NamedTuple):
    """What makes a captured graph fast.

    Attributes:
        compile: makes a function of a half.
        simplify: passes over a captured graph, and over a replay for many vectors.
        half: passes over each half before it is compiled.
        table: decompositions: operators to be written with others.
        fuses: elementwise operations are fused, so that recomputing them is cheaper than keeping their results.
    """

    compile: Callable[[Graph], Run] = run_as_it_is
    simplify: tuple[Pass, ...] = ()
    half: tuple[Pass, ...] = ()
    table: Callable[[], dict[Any, Any]] = dict
    fuses: bool = True

    def many(self, count: int) -> tuple[Pass, ...]:
        """Passes that make a replay for ``count`` vectors from the replay for one."""
        return (
            reshape_for_view,
            replace_unbatchable,
            partial(vectorize, count=count),
            share_matrices,
            reshape_for_view,
            partial(retraced, table=self.table()),
            *self.simplify,
        )


INDUCTOR = Backend(
    inductor.compile,
    simplify=(apply_inductor_patterns,),
    half=(
        split_stencils,
        join_sums,
        sum_outer_dimensions,
        multiply_by_onednn,
        add_products_in_kernels,
        copy_expanded_tensors,
        compile_steps,
        hold_small_factors,
    ),
    table=inductor.decompositions,
)

EAGER = Backend(table=inductor.decompositions)
"""Inductor's decompositions, run operator by operator: for tests of capturing and partitioning."""

OPERATORS = Backend(simplify=(drop_no_ops,), half=(multiply_by_onednn,), fuses=False)
"""The recorded operators, run one by one."""
