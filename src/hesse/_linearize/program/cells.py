"""Steps of recurrent layers, and the steps of their derivatives.

A recurrence has states s, sequences x and a matrix W. Its step at time t is::

    u_t = s_{t-1}[0] @ W;    s_t, y_t = cell(u_t, s_{t-1}, x_t)

A cell is elementwise along all but the last dimension, and W is its only parameter. The cotangents of such a recurrence
are one as well, of the opposite direction and with Wᵀ. Its states are the cotangents du and ds; its cell pulls them back::

    du_t, ds_{t-1}, dx_t = pullback of the cell at (u_t, s_{t-1}, x_t), of ds_t + (du_{t+1} @ Wᵀ, 0, …) + gs_t and gy_t

where gs and gy are the cotangents of the results. So one operator serves all orders of differentiation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Cell = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], tuple[list[Tensor], list[Tensor]]]
"""Of u, states and entries of sequences; returns states and results."""


class Counts(NamedTuple):
    """How many states, sequences and results beside the states a cell has."""

    states: int
    sequences: int
    results: int


def _lstm(u: Tensor, states: Sequence[Tensor], x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    i, f, g, o = (u + x[0]).unflatten(-1, (4, -1)).unbind(-2)
    memory = f.sigmoid() * states[1] + i.sigmoid() * g.tanh()
    return [o.sigmoid() * memory.tanh(), memory], []


def _gru(u: Tensor, states: Sequence[Tensor], x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The second sequence is the bias that the reset gate is a factor of."""
    of_state, of_entry = [entry.unflatten(-1, (3, -1)).unbind(-2) for entry in (u, x[0])]
    r, z = [(a + b).sigmoid() for a, b in zip(of_state[:2], of_entry[:2], strict=True)]
    new = (of_entry[2] + r * (of_state[2] + x[1])).tanh()
    return [new + z * (states[0] - new)], []


def _tanh(u: Tensor, states: Sequence[Tensor], x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    return [(u + x[0]).tanh()], []


def _relu(u: Tensor, states: Sequence[Tensor], x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    return [(u + x[0]).relu()], []


_CELLS: dict[str, tuple[Cell, Counts]] = {
    "lstm": (_lstm, Counts(2, 1, 0)),
    "gru": (_gru, Counts(1, 2, 0)),
    "rnn_tanh": (_tanh, Counts(1, 1, 0)),
    "rnn_relu": (_relu, Counts(1, 1, 0)),
}


def counts_of(name: str, order: int) -> Counts:
    """Those of the derivative of this order of a cell."""
    if order == 0:
        return _CELLS[name][1]
    states, sequences, results = counts_of(name, order - 1)
    return Counts(states + 1, 1 + 2 * states + sequences + results, sequences)


def cell_of(name: str, order: int) -> Cell:
    """The derivative of this order of a cell."""
    if order == 0:
        return _CELLS[name][0]
    inner, counts = cell_of(name, order - 1), counts_of(name, order - 1)
    num_inputs = 1 + counts.states + counts.sequences

    def pullback(u: Tensor, states: Sequence[Tensor], x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        def flat(u: Tensor, *entries: Tensor) -> list[Tensor]:
            states, results = inner(u, entries[: counts.states], entries[counts.states :])
            return [*states, *results]

        pull = torch.func.vjp(flat, *x[:num_inputs])[1]
        of_states, of_results = x[num_inputs:][: counts.states], x[num_inputs + counts.states :]
        total = [a + b for a, b in zip(states[1:], of_states, strict=True)]
        pulled = pull([total[0] + u, *total[1:], *of_results])
        return list(pulled[: 1 + counts.states]), list(pulled[1 + counts.states :])

    return pullback
