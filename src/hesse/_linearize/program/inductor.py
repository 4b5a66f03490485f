"""Compile a half of a captured graph with Inductor, PyTorch's compiler of graphs. Imported only where it is used."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode

from hesse._base.errors import CaptureError
from hesse._linearize.program.backends import Backend, Run, run_as_it_is
from hesse._linearize.program.capture import Graph
from hesse._linearize.program.passes.matrix_products import multiply_by_faster_library
from hesse._linearize.program.passes.reductions import sum_over_outer_dimensions
from hesse._linearize.program.passes.stencils import put_pieces_side_by_side

with warnings.catch_warnings():
    # Importing the compiler runs what PyTorch itself has deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    # Private, all of it: Inductor has no public entry for a graph that is already functional and decomposed, and
    # torch.compile would trace, differentiate and wrap it all over again.
    import torch._inductor.config as inductor_config
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.exc import InvalidCxxCompiler
    from torch._inductor.fx_passes.joint_graph import joint_graph_passes
    from torch._inductor.virtualized import V


def decompositions() -> dict[Any, Any]:
    """Inductor's own, but for what draws: drawn in other steps, the numbers would be others than the tape's."""
    return {
        operator: rule
        for operator, rule in select_decomp_table().items()
        if torch.Tag.nondeterministic_seeded not in getattr(operator, "tags", ())
    }


# Where a value is used twice, Inductor writes its expression out twice, and twice again at the next step of a loop,
# until an expression has so many operations: at its own bound, fifty, ten steps of x + sin(x) take three minutes. At
# this one a hundred and fifty steps take half a minute, and Rosenbrock's replay is a tenth slower.
_MOST_OPERATIONS = 16


def _simplify(graph: Graph, mode: FakeTensorMode) -> None:
    with _compiling(mode):
        joint_graph_passes(graph)


def _compile(graph: Graph, inputs: list[Tensor], mode: FakeTensorMode) -> Run:
    graph = put_pieces_side_by_side(graph, inputs, mode)
    sum_over_outer_dimensions(graph)
    multiply_by_faster_library(graph)
    _write_into_whole_tensors(graph)
    try:
        with _compiling(mode), tracing(TracingContext(mode)):
            compiled: Run = compile_fx_inner(graph, inputs)
            return compiled
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise CaptureError(_reason(error)) from error


def _write_into_whole_tensors(graph: Graph) -> None:
    """Copy what is expanded before it is written into: in some releases Inductor writes into the one element behind."""
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.index_put.default):
        if 0 in node.args[0].meta["val"].stride():
            with graph.graph.inserting_before(node):
                whole = graph.graph.call_function(
                    torch.ops.aten.clone.default, (node.args[0],), {"memory_format": torch.contiguous_format}
                )
            whole.meta["val"] = node.meta["val"]
            node.replace_input_with(node.args[0], whole)
    graph.recompile()


class _compiling:
    """Inductor's settings while it looks at a graph of ours."""

    def __init__(self, mode: FakeTensorMode) -> None:
        # Random numbers as eager PyTorch draws them.
        self._entered: list[Any] = [
            warnings.catch_warnings(),
            V.set_fake_mode(mode),
            inductor_config.patch(fallback_random=True, realize_opcount_threshold=_MOST_OPERATIONS),
        ]

    def __enter__(self) -> None:
        for manager in self._entered:
            manager.__enter__()
        # Of PyTorch's own doing, and none of the user's business.
        warnings.simplefilter("ignore")

    def __exit__(self, *exception: Any) -> None:
        for manager in reversed(self._entered):
            manager.__exit__(*exception)


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InvalidCxxCompiler):
            return "a C++ compiler is needed and none was found; install one or name it in the variable CXX"
        cause = getattr(cause, "inner_exception", None) or cause.__cause__
    first = str(error).strip().split("\n", 1)[0].rstrip(".")
    return f"Inductor cannot compile it: {first}"


INDUCTOR = Backend(_simplify, _compile, decompositions)

EAGER = Backend(lambda graph, mode: None, run_as_it_is, decompositions)
"""Inductor's graphs, operator by operator. What it gives is what was captured."""
