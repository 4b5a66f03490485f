"""Recurrences: an operator that runs one compiled step once for each entry of a sequence.

In a captured graph a recurrence is one node, whatever the length, and so is each of its derivatives. All that a step
does with the matrix beside the one product that the recurrence is made of, such as the matrix's own gradient, is
outside of the loop: one product for the whole sequence.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from hesse._linearize.program.cells import Cell, cell_of, derivative
from hesse._linearize.program.graph import Graph, inputs_of, results_of
from hesse._linearize.program.own_operators import define
from hesse._linearize.program.passes.matrix_products import multiply_by_onednn
from hesse._linearize.program.runs import Run, run_as_it_is, without_wrapper
from hesse._linearize.program.undisturbed import tracing, undisturbed

_Layouts = tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...]

# The bound of kept steps: those of several models, with their derivatives.
_MOST_STEPS = 64


def recur(
    cell: str, reverse: bool, states: Sequence[Tensor], sequences: Sequence[Tensor], matrix: Tensor
) -> list[Tensor]:
    """The results s, r and y of a cell (``cells.py`` has the formulas).

    States are (…, h), sequences (length, …), the matrix (h, g). With ``reverse`` the last entries come first. The
    results s are (length + 1, …), and begin with the first states, or end with them with ``reverse``.
    """
    results: tuple[Tensor, ...] = _Recurrence.apply(cell, reverse, len(states), *states, *sequences, matrix)  # type: ignore[no-untyped-call]  # no types there
    return list(results)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, name: str, reverse: bool, num_states: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        states, sequences, matrix = tensors[:num_states], tensors[num_states:-1], tensors[-1]
        results = RECUR(name, reverse, False, [], states, sequences, matrix)
        ctx.set_materialize_grads(False)
        ctx.options = name, reverse
        ctx.save_for_backward(*sequences[1:], matrix, *results[: num_states + cell_of(name).num_kept])
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        (name, reverse), saved = ctx.options, iter(ctx.saved_tensors)
        cell = cell_of(name)
        sequences, matrix = list(itertools.islice(saved, cell.num_sequences)), next(saved)
        states, kept = list(itertools.islice(saved, cell.num_states)), list(saved)
        first, before, after = (-1, slice(1, None), slice(-1)) if reverse else (0, slice(-1), slice(1, None))
        of_states = [entry if entry is None else entry[after] for entry in cotangents[: cell.num_states]]
        others = [*of_states[1:], *cotangents[cell.num_states :]]
        inputs = [torch.zeros_like(states[0][after]) if of_states[0] is None else of_states[0], *kept]
        inputs += [
            *[states[i][before] for i in cell.carried],
            *sequences,
            *[entry for entry in others if entry is not None],
        ]
        # Nothing follows the last step.
        zeros = [matrix.new_zeros((*states[0].shape[1:-1], matrix.shape[-1]))]
        zeros += [torch.zeros_like(states[i][first]) for i in cell.carried]
        is_there = [entry is not None for entry in others]
        pulled = recur(derivative(name, is_there), not reverse, zeros, inputs, matrix.mT)
        of_first = [entry if entry is None else entry[first] for entry in cotangents[: cell.num_states]]
        for i, entry in [
            (0, pulled[0][first] @ matrix.mT),
            *zip(cell.carried, [entry[first] for entry in pulled[1 : len(zeros)]], strict=True),
        ]:
            of_first[i] = entry if of_first[i] is None else of_first[i] + entry
        # The derivative runs the other way.
        of_u = pulled[0][before]
        of_matrix = states[0][before].flatten(0, -2).mT @ of_u.flatten(0, -2)
        return None, None, None, *of_first, of_u, *pulled[len(zeros) + 1 :], of_matrix


def _shapes(
    name: str,
    reverse: bool,
    compiled: bool,
    unread: Sequence[int],
    states: Sequence[Tensor],
    sequences: Sequence[Tensor],
    matrix: Tensor,
) -> list[Tensor]:
    cell, length = cell_of(name), len(sequences[0])
    inner, mark, _ = name.rpartition("'")
    shapes = [(length + 1, *state.shape) for state in states]
    # What a derivative keeps is u, and its results are cotangents of the sequences of what it is the derivative of.
    shapes += [sequences[0].shape if mark else (length, *states[0].shape)] * cell.num_kept
    if mark:
        place = 1 + cell_of(inner).num_kept + len(cell_of(inner).carried)
        shapes += [entry.shape for entry in sequences[place:][: cell.num_results]]
    return [matrix.new_empty([0] if i in unread else shape) for i, shape in enumerate(shapes)]


def _values(
    name: str,
    reverse: bool,
    compiled: bool,
    unread: Sequence[int],
    states: Sequence[Tensor],
    sequences: Sequence[Tensor],
    matrix: Tensor,
) -> list[Tensor]:
    results = _shapes(name, reverse, compiled, unread, states, sequences, matrix)
    first, before, after = (-1, slice(1, None), slice(-1)) if reverse else (0, slice(-1), slice(1, None))
    for state, result in zip(states, results, strict=False):
        result[first].copy_(state)
    rows = [result.unbind() for result in results[: len(states)]]
    columns: list[Sequence[Tensor]] = [rows[i][before] for i in _read(cell_of(name))]
    columns += [*[sequence.unbind() for sequence in sequences], [matrix] * len(sequences[0])]
    columns += [row[after] for row in rows]
    columns += [result.unbind() for i, result in enumerate(results) if i >= len(states) and i not in unread]
    steps: Any = list(zip(*columns, strict=True))
    run = _step(name, compiled, tuple(unread), tuple([(x.shape, x.stride(), x.dtype) for x in steps[0]]))
    for tensors in reversed(steps) if reverse else steps:
        run(list(tensors))
        run = without_wrapper(run)
    return results


def _read(cell: Cell) -> list[int]:
    """The states that a step reads, the first for its product."""
    return sorted({0, *cell.carried})


@functools.lru_cache(_MOST_STEPS)
def _step(name: str, compiled: bool, unread: tuple[int, ...], layouts: _Layouts) -> Run:
    """Takes the states that are read, entries of sequences, the matrix, then the tensors to write the results into."""
    if not compiled:
        return run_as_it_is(_graph(name, unread, layouts))
    from hesse._linearize.program.saved_step import saved_step

    def compile() -> Run:
        from hesse._linearize.program import inductor

        # The layouts are those that the step was made for.
        return inductor.compile(multiply_by_onednn(_graph(name, unread, layouts)), size_asserts=False)

    return saved_step((name, unread, layouts), compile)


def _graph(name: str, unread: tuple[int, ...], layouts: _Layouts) -> Graph:
    from hesse._linearize.program import inductor
    from hesse._linearize.program.stand_ins import new_mode

    cell = cell_of(name)
    read = _read(cell)
    num_inputs = len(read) + 1 + cell.num_sequences + 1

    def step(*tensors: Tensor) -> list[Tensor]:
        states = dict(zip(read, tensors, strict=False))
        x, *sequences, matrix = tensors[len(read) : num_inputs]
        carried = [states[i] if i in cell.carried else None for i in range(cell.num_states)]
        after, kept, results = cell.step(states[0] @ matrix + x, carried, sequences)
        return [result for i, result in enumerate([*after, *kept, *results]) if i not in unread]

    with tracing, undisturbed(), new_mode():
        stand_ins = [torch.empty_strided(shape, stride, dtype=dtype, device="cpu") for shape, stride, dtype in layouts]
        table = inductor.decompositions()
        graph: Graph = make_fx(torch.func.functionalize(step), decomposition_table=table)(*stand_ins)
    _write_results(graph, num_inputs)
    return graph


def _write_results(graph: Graph, num_inputs: int) -> None:
    """Write the results into the inputs from ``num_inputs`` on, and return nothing."""
    output = graph.graph.output_node()
    with graph.graph.inserting_before(output):
        for target, result in zip(inputs_of(graph)[num_inputs:], results_of(graph), strict=True):
            written = graph.graph.call_function(torch.ops.aten.copy_.default, (target, result))
            written.meta["val"] = target.meta["val"]
    output.args = ([],)
    graph.recompile()


def _batched(
    info: Any,
    in_dims: Any,
    name: str,
    reverse: bool,
    compiled: bool,
    unread: Sequence[int],
    states: Sequence[Tensor],
    sequences: Sequence[Tensor],
    matrix: Tensor,
) -> tuple[list[Tensor], list[int]]:
    def batches(tensor: Tensor, dim: int | None, place: int) -> Tensor:
        """With the batch as dimension ``place``."""
        if dim is not None:
            return tensor.movedim(dim, place)
        return tensor.unsqueeze(place).expand(*tensor.shape[:place], info.batch_size, *tensor.shape[place:])

    *_, of_states, of_sequences, of_matrix = in_dims
    results = RECUR(
        name,
        reverse,
        compiled,
        unread,
        [batches(state, dim, 0) for state, dim in zip(states, of_states, strict=True)],
        [batches(sequence, dim, 1) for sequence, dim in zip(sequences, of_sequences, strict=True)],
        matrix if of_matrix is None else matrix.movedim(of_matrix, 0),
    )
    return results, [1] * len(results)


RECUR = define(
    "recur(str cell, bool reverse, bool compiled, int[] unread, Tensor[] states, Tensor[] sequences, Tensor matrix)"
    " -> Tensor[]",
    _values,
    _shapes,
    _batched,
)
