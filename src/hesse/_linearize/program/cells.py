"""Cells of recurrent layers, and the cells of their derivatives.

A recurrence has states s, sequences x and a matrix W. Its step at time t is::

    u_t = s_{t-1}[0] @ W + x_t[0];    s_t, r_t, y_t = cell(u_t, s_{t-1}, x_t[1:])

and its results are s, r and y. What r holds, such as the activations of the gates, spares the derivative their
computation. A cell is elementwise along all but the last dimension, and reads the state s[0] only where it carries it.
The cotangents of a recurrence are a recurrence of the opposite direction with Wᵀ. Its states are du and ds, and its
cell is a pullback::

    du_t, ds_{t-1}, dx_t[1:] = pullback of (s_t, r_t, y_t), at (r_t, s_{t-1}, x_t[1:]), of
                               (ds_t + (du_{t+1} @ Wᵀ, 0, …) + gs_t, gr_t, gy_t);    dx_t[0] = du_t

where gs, gr and gy are the cotangents of the results, as far as there are any. So one operator serves all orders of
differentiation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Entries = Sequence[Tensor]
States = Sequence[Tensor | None]
"""None for a state that is not carried."""


class Cell(NamedTuple):
    """A step of a recurrence, and its pullback.

    Attributes:
        step: of u, states and entries of the sequences x[1:]; returns states, r and y.
        pull: of r, the states before the step, x[1:], and the cotangents of states, r and y, None for those that are
            zero; returns those of u, of the states that are carried, and of x[1:].
        num_states: states s.
        carried: which of them the step reads beside the product with W.
        num_sequences: sequences x[1:].
        num_kept: results r.
        num_results: results y.
    """

    step: Callable[[Tensor, States, Entries], tuple[Entries, Entries, Entries]]
    pull: Callable[[Entries, States, Entries, Entries, States, States], tuple[Tensor, Entries, Entries]]
    num_states: int
    carried: tuple[int, ...]
    num_sequences: int
    num_kept: int
    num_results: int = 0


def _gates(u: Tensor, count: int) -> Sequence[Tensor]:
    return u.reshape(*u.shape[:-1], count, -1).unbind(-2)


def _added(a: Tensor, b: Tensor | None) -> Tensor:
    return a if b is None else a + b


def _of_sigmoid(cotangent: Tensor, value: Tensor) -> Tensor:
    return cotangent * value * (1 - value)


def _of_tanh(cotangent: Tensor, value: Tensor) -> Tensor:
    return cotangent * (1 - value * value)


def _lstm(u: Tensor, states: States, x: Entries) -> tuple[Entries, Entries, Entries]:
    _, before = states
    assert before is not None
    i, f, g, o = _gates(u, 4)
    kept = [i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()]
    memory = kept[1] * before + kept[0] * kept[2]
    kept.append(memory.tanh())
    return [kept[3] * kept[4], memory], kept, []


def _pull_lstm(
    r: Entries, before: States, x: Entries, of_states: Entries, of_r: States, of_y: States
) -> tuple[Tensor, Entries, Entries]:
    (i, f, g, o, tanh), (of_state, of_memory), (_, memory) = r, of_states, before
    assert memory is not None
    of_memory = of_memory + _of_tanh(_added(of_state * o, of_r[4]), tanh)
    cotangents = [of_memory * g, of_memory * memory, of_memory * i, of_state * tanh]
    of_i, of_f, of_g, of_o = map(_added, cotangents, of_r[:4])
    of_u = torch.cat([_of_sigmoid(of_i, i), _of_sigmoid(of_f, f), _of_tanh(of_g, g), _of_sigmoid(of_o, o)], -1)
    return of_u, [of_memory * f], []


def _gru(u: Tensor, states: States, x: Entries) -> tuple[Entries, Entries, Entries]:
    """The sequence is what the inputs contribute to the new state; u has what the reset gate is a factor of."""
    r, z, new = _gates(u, 3)
    r, z = r.sigmoid(), z.sigmoid()
    kept = [r, z, new, (x[0] + r * new).tanh()]
    return [_between(kept[3], states[0], z)], kept, []


def _between(new: Tensor, state: Tensor | None, z: Tensor) -> Tensor:
    assert state is not None
    return new + z * (state - new)


def _pull_gru(
    kept: Entries, before: States, x: Entries, of_states: Entries, of_r: States, of_y: States
) -> tuple[Tensor, Entries, Entries]:
    (r, z, factor, new), (state,), (cotangent,) = kept, before, of_states
    assert state is not None
    of_z = _added(cotangent * (state - new), of_r[1])
    of_new = _of_tanh(_added(cotangent * (1 - z), of_r[3]), new)
    of_reset, of_factor = _added(of_new * factor, of_r[0]), _added(of_new * r, of_r[2])
    of_u = torch.cat([_of_sigmoid(of_reset, r), _of_sigmoid(of_z, z), of_factor], -1)
    return of_u, [cotangent * z], [of_new]


def _of_relu(cotangent: Tensor, value: Tensor) -> Tensor:
    # As PyTorch's, which passes on the cotangent of what is no number.
    return torch.where(value <= 0, 0.0, cotangent)


def _plain(activation: Callable[[Tensor], Tensor], pullback: Callable[[Tensor, Tensor], Tensor]) -> Cell:
    """Of one state, which is the activation; its pullback takes the cotangent and the value."""

    def step(u: Tensor, states: States, x: Entries) -> tuple[Entries, Entries, Entries]:
        new = activation(u)
        return [new], [new], []

    def pull(
        r: Entries, before: States, x: Entries, of_states: Entries, of_r: States, of_y: States
    ) -> tuple[Tensor, Entries, Entries]:
        return pullback(_added(of_states[0], of_r[0]), r[0]), [], []

    return Cell(step, pull, 1, (), 0, 1)


def _masked(cell: Cell) -> Cell:
    """The last sequence is one where a step is taken, and zero where the states stay as they are."""

    def step(u: Tensor, states: States, x: Entries) -> tuple[Entries, Entries, Entries]:
        new, kept, results = cell.step(u, states, x[:-1])
        return [torch.where(x[-1] > 0, a, b) for a, b in zip(new, states, strict=True)], kept, results  # type: ignore[arg-type]  # all are carried

    def pull(
        r: Entries, before: States, x: Entries, of_states: Entries, of_r: States, of_y: States
    ) -> tuple[Tensor, Entries, Entries]:
        is_taken = x[-1] > 0
        taken = [torch.where(is_taken, entry, 0.0) for entry in of_states]
        of_u, of_carried, of_x = cell.pull(r, before, x[:-1], taken, of_r, of_y)
        carried = [torch.where(is_taken, 0.0, entry) for entry in of_states]
        for state, entry in zip(cell.carried, of_carried, strict=True):
            carried[state] = carried[state] + entry
        return of_u, carried, [*of_x, torch.zeros_like(x[-1])]

    return cell._replace(
        step=step, pull=pull, carried=tuple(range(cell.num_states)), num_sequences=cell.num_sequences + 1
    )


_CELLS = {
    "lstm": Cell(_lstm, _pull_lstm, 2, (1,), 0, 5),
    "gru": Cell(_gru, _pull_gru, 1, (0,), 1, 4),
    "rnn_tanh": _plain(torch.tanh, _of_tanh),
    "rnn_relu": _plain(torch.relu, _of_relu),
}
_CELLS |= {f"masked {name}": _masked(cell) for name, cell in _CELLS.items()}


def derivative(name: str, is_there: Sequence[bool]) -> str:
    """The name of a cell's derivative.

    Its sequences x[1:] are r, the carried states before each step and x[1:] of the cell, then the cotangents that are
    there of states but the first, r and y.
    """
    return f"{name}'" + "".join([str(int(flag)) for flag in is_there])


@functools.cache
def cell_of(name: str) -> Cell:
    """The cell of this name."""
    inner, mark, flags = name.rpartition("'")
    return _derivative(cell_of(inner), [flag == "1" for flag in flags]) if mark else _CELLS[name]


def _derivative(cell: Cell, is_there: Sequence[bool]) -> Cell:
    num_carried, num_others = len(cell.carried), cell.num_states - 1

    def step(u: Tensor, states: States, x: Entries) -> tuple[Entries, Entries, Entries]:
        given = iter(x)
        kept = [next(given) for _ in range(cell.num_kept)]
        before = _placed(cell, [next(given) for _ in range(num_carried)])
        entries = [next(given) for _ in range(cell.num_sequences)]
        cotangents = [next(given) if flag else None for flag in is_there]
        totals = _placed(cell, states[1:])
        totals[0] = _added(u, totals[0])
        of_states = [_added(total, more) for total, more in zip(totals, [None, *cotangents], strict=False)]  # type: ignore[arg-type]  # all but the first are carried
        of_kept, of_results = cotangents[num_others:][: cell.num_kept], cotangents[num_others + cell.num_kept :]
        of_u, of_carried, of_entries = cell.pull(kept, before, entries, of_states, of_kept, of_results)
        return [of_u, *of_carried], [u], of_entries

    def pull(
        r: Entries, before: States, x: Entries, of_states: Entries, of_r: States, of_y: States
    ) -> tuple[Tensor, Entries, Entries]:
        def flat(u: Tensor, *entries: Tensor) -> list[Tensor]:
            states, _, results = step(u, [None, *entries[:num_carried]], entries[num_carried:])
            return [*states, *[y for y, entry in zip(results, of_y, strict=True) if entry is not None]]

        carried = [entry for entry in before[1:] if entry is not None]
        pullback = torch.func.vjp(flat, *r, *carried, *x)[1]
        of_u, *rest = pullback([*of_states, *[entry for entry in of_y if entry is not None]])
        return _added(of_u, of_r[0]), rest[:num_carried], rest[num_carried:]

    return Cell(
        step,
        pull,
        num_states=1 + num_carried,
        carried=tuple(range(1, 1 + num_carried)),
        num_sequences=cell.num_kept + num_carried + cell.num_sequences + sum(is_there),
        num_kept=1,
        num_results=cell.num_sequences,
    )


def _placed(cell: Cell, carried: States) -> list[Tensor | None]:
    """The carried states among all."""
    states: list[Tensor | None] = [None] * cell.num_states
    for place, state in zip(cell.carried, carried, strict=True):
        states[place] = state
    return states
