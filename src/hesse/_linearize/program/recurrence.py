"""Recurrences: an operator that runs one compiled step once for each entry of a sequence.

In a captured graph a recurrence is one node, whatever the length, and so is each of its derivatives. All that a step
does with the matrix beside the one product that the recurrence is made of, such as the matrix's own gradient, is
outside of the loop: one product for the whole sequence.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from hesse._linearize.program.cells import cell_of, counts_of
from hesse._linearize.program.graph import Graph, inputs_of, results_of
from hesse._linearize.program.own_operators import define
from hesse._linearize.program.passes.matrix_products import multiply_by_onednn
from hesse._linearize.program.runs import Run, run_as_it_is, without_wrapper
from hesse._linearize.program.undisturbed import undisturbed

_Layouts = tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...]

# The bound of kept steps: those of several models, with their derivatives.
_MOST_STEPS = 64


def recur(
    cell: str, order: int, reverse: bool, states: Sequence[Tensor], sequences: Sequence[Tensor], matrix: Tensor
) -> list[Tensor]:
    """The results (states, u and y of each step) of the derivative of order ``order`` of a cell.

    States are (…, h), sequences (length, …), the matrix (h, g). With ``reverse`` the last entries come first.
    """
    results: tuple[Tensor, ...] = _Recurrence.apply(cell, order, reverse, len(states), *states, *sequences, matrix)  # type: ignore[no-untyped-call]  # no types there
    return list(results)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, cell: str, order: int, reverse: bool, num_states: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        states, sequences, matrix = tensors[:num_states], tensors[num_states:-1], tensors[-1]
        results = RECUR(cell, order, reverse, False, states, sequences, matrix)
        ctx.options = cell, order, reverse, num_states
        ctx.save_for_backward(*tensors, *results[: num_states + 1])
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        cell, order, reverse, num_states = ctx.options
        saved = list(ctx.saved_tensors)
        num_inputs = len(saved) - num_states - 1
        states, sequences, matrix = saved[:num_states], saved[num_states : num_inputs - 1], saved[num_inputs - 1]
        *after, products = saved[num_inputs:]
        before = [_shifted(first, rest, reverse) for first, rest in zip(states, after, strict=True)]
        zeros = [torch.zeros_like(entry) for entry in (products[0], *states)]
        inputs = [products, *before, *sequences, *cotangents]
        pulled = recur(cell, order + 1, not reverse, zeros, inputs, matrix.mT)
        of_products, of_states = pulled[0], [entry[-1 if reverse else 0] for entry in pulled[1 : 1 + num_states]]
        of_states[0] = of_states[0] + of_products[-1 if reverse else 0] @ matrix.mT
        of_matrix = before[0].flatten(0, -2).mT @ of_products.flatten(0, -2)
        return None, None, None, None, *of_states, *pulled[2 + num_states :], of_matrix


def _shifted(first: Tensor, states: Tensor, reverse: bool) -> Tensor:
    """The states before each step."""
    return torch.cat([states[1:], first[None]] if reverse else [first[None], states[:-1]])


def _shapes(
    cell: str,
    order: int,
    reverse: bool,
    compiled: bool,
    states: Sequence[Tensor],
    sequences: Sequence[Tensor],
    matrix: Tensor,
) -> list[Tensor]:
    length, width = len(sequences[0]), matrix.shape[-1]
    made = [entry.new_empty((length, *entry.shape)) for entry in states]
    made.append(matrix.new_empty((length, *states[0].shape[:-1], width)))
    if order:
        # The results are cotangents of the sequences of the recurrence that this one is the derivative of.
        counts = counts_of(cell, order - 1)
        inner = sequences[1 + counts.states :][: counts.sequences]
        made += [entry.new_empty(entry.shape) for entry in inner]
    return made


def _values(
    cell: str,
    order: int,
    reverse: bool,
    compiled: bool,
    states: Sequence[Tensor],
    sequences: Sequence[Tensor],
    matrix: Tensor,
) -> list[Tensor]:
    results = _shapes(cell, order, reverse, compiled, states, sequences, matrix)
    entries = list(zip(*[sequence.unbind() for sequence in sequences], strict=True))
    targets = list(zip(*[result.unbind() for result in results], strict=True))
    before: Sequence[Tensor] = [state.contiguous() for state in states]
    first = [*before, *entries[0], matrix, *targets[0]]
    layouts = tuple([(tensor.shape, tensor.stride(), tensor.dtype) for tensor in first])
    run = _step(cell, order, len(states), compiled, layouts)
    times = range(len(entries))
    for t in reversed(times) if reverse else times:
        run([*before, *entries[t], matrix, *targets[t]])
        run = without_wrapper(run)
        before = targets[t][: len(states)]
    return results


@functools.lru_cache(_MOST_STEPS)
def _step(cell: str, order: int, num_states: int, compiled: bool, layouts: _Layouts) -> Run:
    """Takes states, entries of sequences, the matrix, then the tensors to write the results into."""
    from hesse._linearize.program import inductor
    from hesse._linearize.program.stand_ins import new_mode

    function, counts = cell_of(cell, order), counts_of(cell, order)
    num_inputs = num_states + counts.sequences + 1

    def step(*tensors: Tensor) -> list[Tensor]:
        states, sequences, matrix = tensors[:num_states], tensors[num_states : num_inputs - 1], tensors[num_inputs - 1]
        products = states[0] @ matrix
        after, results = function(products, states, sequences)
        return [*after, products, *results]

    with undisturbed(), new_mode():
        stand_ins = [torch.empty_strided(shape, stride, dtype=dtype, device="cpu") for shape, stride, dtype in layouts]
        table = inductor.decompositions()
        graph: Graph = make_fx(torch.func.functionalize(step), decomposition_table=table)(*stand_ins)
    _write_results(graph, num_inputs)
    if not compiled:
        return run_as_it_is(graph)
    # The layouts are those that the step was made for.
    return inductor.compile(multiply_by_onednn(graph), size_asserts=False)


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
    cell: str,
    order: int,
    reverse: bool,
    compiled: bool,
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
        cell,
        order,
        reverse,
        compiled,
        [batches(state, dim, 0) for state, dim in zip(states, of_states, strict=True)],
        [batches(sequence, dim, 1) for sequence, dim in zip(sequences, of_sequences, strict=True)],
        matrix if of_matrix is None else matrix.movedim(of_matrix, 0),
    )
    return results, [1] * len(results)


RECUR = define(
    "recur(str cell, int order, bool reverse, bool compiled, Tensor[] states, Tensor[] sequences, Tensor matrix)"
    " -> Tensor[]",
    _values,
    _shapes,
    _batched,
)
