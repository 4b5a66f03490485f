"""PyTorch's recurrent layers as recurrences, while a program is captured.

What does not depend on the states, the products of the entries with their matrix, is done for the whole sequence.
Source of the formulas: https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html, GRU and RNN.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hesse._linearize.program.recurrence import recur
from hesse._rules import inside_transform


def _layer(
    cell: str, x: Tensor, initial: Sequence[Tensor], parameters: Sequence[Tensor], has_biases: bool, reverse: bool
) -> tuple[Tensor, list[Tensor]]:
    """The outputs (length, batch, h) of one layer in one direction, and its last states."""
    of_input, of_state = parameters[:2]
    biases = parameters[2:4] if has_biases else [x.new_zeros(len(of_state))] * 2
    projection = parameters[-1] if len(parameters) in (3, 5) else None
    driven, states = F.linear(x, of_input, biases[0]), list(initial)
    sequences = [driven + biases[1]]
    if cell == "gru":
        width = initial[0].shape[-1]
        # The reset gate multiplies the last part of the second bias.
        last = biases[1][2 * width :]
        sequences = [driven + F.pad(biases[1][: 2 * width], (0, width)), last.expand(*x.shape[:2], width)]
    if projection is not None:
        # The state is the one before the projection, so that each step is one product; the first has none, and what
        # the projected one contributes to the first step is added there.
        first = F.linear(states[0], of_state)[None]
        rest = torch.zeros_like(driven[1:])
        sequences[0] = sequences[0] + torch.cat([rest, first] if reverse else [first, rest])
        states[0], of_state = torch.zeros_like(states[1]), of_state @ projection
    found = recur(cell, 0, reverse, states, sequences, of_state.mT)
    outputs = found[0] if projection is None else F.linear(found[0], projection)
    ends = [entry[0 if reverse else -1] for entry in (outputs, *found[1 : len(states)])]
    return outputs, ends


def _stacked(
    cell: str,
    x: Tensor,
    initial: Sequence[Tensor],
    parameters: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Outputs of the last layer, and the last states of all layers, stacked."""
    directions = 1 + bidirectional
    each = len(parameters) // (num_layers * directions)
    ends: list[list[Tensor]] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            place = layer * directions + direction
            own = parameters[place * each : (place + 1) * each]
            output, end = _layer(cell, x, [entry[place] for entry in initial], own, has_biases, bool(direction))
            outputs.append(output)
            ends.append(end)
        x = torch.cat(outputs, -1) if bidirectional else outputs[0]
        if dropout and train and layer < num_layers - 1:
            x = torch.dropout(x, dropout, True)
    return x, [torch.stack(parts) for parts in zip(*ends, strict=True)]


def _padded(
    cell: str,
    x: Tensor,
    initial: Tensor | Sequence[Tensor],
    parameters: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    states = [initial] if isinstance(initial, Tensor) else list(initial)
    x = x.transpose(0, 1) if batch_first else x
    outputs, ends = _stacked(cell, x, states, parameters, has_biases, num_layers, dropout, train, bidirectional)
    return outputs.transpose(0, 1) if batch_first else outputs, *ends


_LAYERS: dict[Any, Callable[..., Any]] = {
    getattr(torch, cell): functools.partial(_padded, cell) for cell in ("lstm", "gru", "rnn_tanh", "rnn_relu")
}


def as_recurrence(func: Any, args: Sequence[Any]) -> Callable[..., Any] | None:
    """What to call in the place of a function of PyTorch; None where it is no layer that a recurrence stands for."""
    layer = _LAYERS.get(func)
    # Packed sequences have their batch sizes before the states.
    is_padded = len(args) == 9 and isinstance(args[3], bool)
    if layer is None or not is_padded or inside_transform() or torch.is_autocast_enabled("cpu"):
        return None
    x = args[0]
    is_taken = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and x.numel()
    return layer if is_taken else None
