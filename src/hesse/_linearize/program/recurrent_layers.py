"""PyTorch's recurrent layers as recurrences, while a program is captured.

What does not depend on the states, the products of the entries with their matrix, is done for the whole sequence.
Packed sequences are padded, and a mask keeps the states of those that have ended.
Source of the formulas: https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html, GRU and RNN.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hesse._linearize.program.packing import Packing, sizes_of
from hesse._linearize.program.recurrence import recur
from hesse._rules import inside_transform

ReadIntegers = Callable[[Tensor], list[int]]
"""Reads the values of a tensor that depends on captured tensors alone."""


class _Options(NamedTuple):
    """The options that padded and packed sequences have in common, as PyTorch's functions take them."""

    has_biases: bool
    num_layers: int
    dropout: float
    train: bool
    bidirectional: bool


def _layer(
    cell: str,
    x: Tensor,
    initial: Sequence[Tensor],
    parameters: Sequence[Tensor],
    has_biases: bool,
    reverse: bool,
    packing: Packing | None,
) -> tuple[Tensor, list[Tensor]]:
    """The outputs (length, batch, h) of one layer in one direction, and its last states."""
    of_input, of_state = parameters[:2]
    biases = parameters[2:4] if has_biases else [x.new_zeros(len(of_state))] * 2
    projection = parameters[-1] if len(parameters) in (3, 5) else None
    driven, states = F.linear(x, of_input, biases[0]), list(initial)
    sequences = [driven + biases[1]]
    if cell == "gru":
        width = initial[0].shape[-1]
        # The reset gate multiplies what the state contributes to the new one, its bias included.
        of_new = biases[1][2 * width :].expand(*x.shape[:2], width)
        sequences = [torch.cat([sequences[0][..., : 2 * width], of_new], -1), driven[..., 2 * width :]]
    if projection is not None:
        # The state is the one before the projection, so that each step is one product. There is none at first: what
        # the projected one contributes to the first step is added there.
        sequences[0] = sequences[0] + _first_steps(x, reverse, packing) * F.linear(states[0], of_state)
        states[0], of_state = torch.zeros_like(states[1]), of_state @ projection
    if packing is not None:
        cell, sequences = f"masked {cell}", [*sequences, packing.mask(x)]
    found = recur(cell, reverse, states, sequences, of_state.mT)
    outputs, *others = [entry[:-1] if reverse else entry[1:] for entry in found[: len(states)]]
    outputs = outputs if projection is None else F.linear(outputs, projection)
    ends = [entry[0 if reverse else -1] for entry in (outputs, *others)]
    return outputs, ends


def _first_steps(x: Tensor, reverse: bool, packing: Packing | None) -> Tensor:
    """One (length, batch, 1) at the first step of each sequence, zero elsewhere."""
    length, batch = x.shape[:2]
    lengths = packing.lengths if packing is not None else [length] * batch
    places = torch.tensor([end - 1 if reverse else 0 for end in lengths], device=x.device)
    return (torch.arange(length, device=x.device)[:, None, None] == places[:, None]).to(x.dtype)


def _stacked(
    cell: str,
    x: Tensor,
    initial: Sequence[Tensor],
    parameters: Sequence[Tensor],
    options: _Options,
    packing: Packing | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Outputs of the last layer, and the last states of all layers, stacked."""
    directions = 1 + options.bidirectional
    each = len(parameters) // (options.num_layers * directions)
    ends: list[list[Tensor]] = []
    for layer in range(options.num_layers):
        outputs = []
        for place in range(layer * directions, (layer + 1) * directions):
            own, states = parameters[place * each : (place + 1) * each], [entry[place] for entry in initial]
            output, end = _layer(cell, x, states, own, options.has_biases, place == layer * directions + 1, packing)
            outputs.append(output)
            ends.append(end)
        x = torch.cat(outputs, -1)
        if options.dropout and options.train and layer < options.num_layers - 1:
            # Drawn as PyTorch draws: for the entries that there are.
            drop = functools.partial(torch.dropout, p=options.dropout, train=True)
            x = drop(x) if packing is None else packing.padded(drop(packing.packed(x)))
    return x, [torch.stack(parts) for parts in zip(*ends, strict=True)]


def _states(initial: Any) -> list[Tensor]:
    return [initial] if isinstance(initial, Tensor) else list(initial)


def _padded(cell: str, x: Tensor, initial: Any, parameters: Sequence[Tensor], *rest: Any) -> Any:
    *options, batch_first = rest
    x = x.transpose(0, 1) if batch_first else x
    outputs, ends = _stacked(cell, x, _states(initial), parameters, _Options(*options))
    return outputs.transpose(0, 1) if batch_first else outputs, *ends


def _packed(
    cell: str, read: ReadIntegers, x: Tensor, sizes: Tensor, initial: Any, parameters: Sequence[Tensor], *options: Any
) -> Any:
    packing = Packing(read(sizes))
    outputs, ends = _stacked(cell, packing.padded(x), _states(initial), parameters, _Options(*options), packing)
    return packing.packed(outputs), *ends


def _pack(read: ReadIntegers, x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    sizes = sizes_of(read(lengths))
    return Packing(sizes).packed(x.transpose(0, 1) if batch_first else x), torch.tensor(sizes, device="cpu")


def _pad(
    read: ReadIntegers, data: Tensor, batch_sizes: Tensor, batch_first: bool, value: float, length: int
) -> tuple[Tensor, Tensor]:
    packing = Packing(read(batch_sizes))
    mask = packing.mask(data).reshape(len(packing.sizes), packing.batch, *[1] * (data.dim() - 1))
    x = torch.where(mask > 0, packing.padded(data), value)
    x = torch.cat([x, x.new_full((length - len(x), *x.shape[1:]), value)])
    return x.transpose(0, 1) if batch_first else x, torch.tensor(packing.lengths, device="cpu")


_FORMS: dict[str, Callable[..., Any]] = {"pack_padded": _pack, "pad_packed": _pad}
_LAYERS = {getattr(torch, cell): cell for cell in ("lstm", "gru", "rnn_tanh", "rnn_relu")}
# Private: what ``torch.nn.utils.rnn`` calls. Where one is missing, PyTorch's own is captured or refused.
_CONVERSIONS = {getattr(torch, f"_{name}_sequence", None): form for name, form in _FORMS.items()}


def as_recurrence(func: Any, args: Sequence[Any], read: ReadIntegers) -> Callable[..., Any] | None:
    """What to call in the place of a function of PyTorch; None where it has to do with no recurrence."""
    if func not in _LAYERS and func not in _CONVERSIONS:
        return None
    x = args[0]
    is_taken = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and x.numel()
    if not is_taken or inside_transform() or torch.is_autocast_enabled("cpu"):
        return None
    if func in _CONVERSIONS:
        return functools.partial(_CONVERSIONS[func], read)
    # Packed sequences have their batch sizes before the states.
    if len(args) == 9 and isinstance(args[3], bool):
        return functools.partial(_padded, _LAYERS[func])
    return functools.partial(_packed, _LAYERS[func], read) if len(args) == 9 else None
