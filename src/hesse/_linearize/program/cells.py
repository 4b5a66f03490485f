"""Steps of recurrent layers, and the steps of their derivatives.

A recurrence has states s, sequences x and a matrix W. Its step at time t is::

    u_t = s_{t-1}[0] @ W;    s_t, y_t = cell(u_t, s_{t-1}, x_t)

and its results are s, u and y. A cell is elementwise along all but the last dimension. The cotangents of a recurrence
are a recurrence of the opposite direction with Wᵀ. Its states are du and ds, and its cell is a pullback::

    du_t, ds_{t-1}, dx_t = pullback of (s_t, u_t, y_t), at (u_t, s_{t-1}, x_t), of
                           (ds_t + (du_{t+1} @ Wᵀ, 0, …) + gs_t, gu_t, gy_t)

where gs, gu and gy are the cotangents of the results. So one operator serves all orders of differentiation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Cell = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], tuple[list[Tensor], list[Tensor]]]
"""Of u, states and entries of sequences; returns states and results."""


class Counts(NamedTuple):
    """How many states, sequences and further results y a cell has."""

    states: int
    sequences: int
    results: int


def _parts(gates: Tensor, count: int) -> Sequence[Tensor]:
    # By unbind, whose derivative is one stack; that of chunk is a sum of padded parts.
    return gates.reshape(*gates.shape[:-1], count, -1).unbind(-2)


def _lstm(u: Tensor, states: Sequence[Tensor], x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    i, f, g, o = _parts(u + x[0], 4)
    memory = f.sigmoid() * states[1] + i.sigmoid() * g.tanh()
    return [o.sigmoid() * memory.tanh(), memory], []


def _gru(u: Tensor, states: Sequence[Tensor], x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The second sequence is the bias that the reset gate is a factor of."""
    of_state, of_entry = _parts(u, 3), _parts(x[0], 3)
    r, z = [(a + b).sigmoid() for a, b in zip(of_state[:2], of_entry[:2], strict=True)]
    new = (of_entry[2] + r * (of_state[2] + x[1])).tanh()
    return [new + z * (states[0] - new)], []


def _tanh(u: Tensor, states: Sequence[Tensor], x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    return [(u + x[0]).tanh()], []


def _relu(u: Tensor, states: Sequence[Tensor], x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    return [(u + x[0]).relu()], []


def _masked(cell: Cell) -> Cell:
    """The last sequence is one where a step is taken, and zero where the states stay as they are."""

    def masked(u: Tensor, states: Sequence[Tensor], x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        new, results = cell(u, states, x[:-1])
        return [torch.where(x[-1] > 0, a, b) for a, b in zip(new, states, strict=True)], results

    return masked


_CELLS: dict[str, tuple[Cell, Counts]] = {
    "lstm": (_lstm, Counts(2, 1, 0)),
    "gru": (_gru, Counts(1, 2, 0)),
    "rnn_tanh": (_tanh, Counts(1, 1, 0)),
    "rnn_relu": (_relu, Counts(1, 1, 0)),
}
_CELLS |= {
    f"masked {name}": (_masked(cell), counts._replace(sequences=counts.sequences + 1))
    for name, (cell, counts) in _CELLS.items()
}


def counts_of(name: str, order: int) -> Counts:
    """Those of the derivative of this order of a cell."""
    if order == 0:
        return _CELLS[name][1]
    states, sequences, results = counts_of(name, order - 1)
    return Counts(states + 1, 2 + 2 * states + sequences + results, sequences)


def cell_of(name: str, order: int) -> Cell:
    """The derivative of this order of a cell."""
    if order == 0:
        return _CELLS[name][0]
    inner, counts = cell_of(name, order - 1), counts_of(name, order - 1)
    num_inputs = 1 + counts.states + counts.sequences

    def pullback(u: Tensor, states: Sequence[Tensor], x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        def flat(u: Tensor, *entries: Tensor) -> list[Tensor]:
            states, results = inner(u, entries[: counts.states], entries[counts.states :])
            return [*states, u, *results]

        pull = torch.func.vjp(flat, *x[:num_inputs])[1]
        of_states, of_results = x[num_inputs:][: counts.states], x[num_inputs + counts.states :]
        total = [a + b for a, b in zip(states[1:], of_states, strict=True)]
        pulled = pull([total[0] + u, *total[1:], *of_results])
        return list(pulled[: 1 + counts.states]), list(pulled[1 + counts.states :])

    return pullback
