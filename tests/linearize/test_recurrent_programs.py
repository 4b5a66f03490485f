"""Recurrent layers by programs, which loop over one step, where the tape takes PyTorch's own layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hesse._linearize.program.graph import Graph
from hesse._linearize.program.runs import Run, run_as_it_is

from . import programs

DOUBLE = torch.float64


@pytest.mark.parametrize("options", [{"batch_first": True}, {"num_layers": 2, "bidirectional": True}, {}], ids=str)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.private
@pytest.mark.one_in(18)
def test_products_are_those_of_pytorch_in_double_precision(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = kind(3, 4, **options)
    wide = kind(3, 4, **options).double()
    wide.load_state_dict(layer.state_dict())
    sequences = torch.randn(3, 2, 3)

    def func(layer: nn.Module, parameters: list[Tensor], x: Tensor) -> Tensor:
        named = dict(zip(dict(layer.named_parameters()), parameters, strict=True))
        return (torch.func.functional_call(layer, named, (x,))[0] ** 2).sum().sin()

    parameters = [parameter.detach() for parameter in layer.parameters()]
    vector = [torch.randn_like(parameter) for parameter in parameters]
    is_enabled = torch.backends.mkldnn.enabled
    product = programs.hessian(lambda p: func(layer, p, sequences), parameters) @ vector
    assert torch.backends.mkldnn.enabled == is_enabled
    expected = torch.autograd.functional.vhp(
        lambda *p: func(wide, list(p), sequences.double()),
        tuple(parameter.double() for parameter in parameters),
        tuple(entry.double() for entry in vector),
    )[1]
    for entry, wanted in zip(product, expected, strict=True):
        torch.testing.assert_close(entry.double(), wanted, rtol=1e-4, atol=1e-4)


CASES = [
    (nn.GRU, {"bidirectional": True}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    (nn.LSTM, {"proj_size": 2, "bidirectional": True}),
    (nn.LSTM, {"num_layers": 2, "dropout": 0.5, "bias": False}),
    (nn.RNN, {"nonlinearity": "relu", "bias": False}),
    (nn.RNN, {}),
]


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
@pytest.mark.private
@pytest.mark.one_in(12)
def test_halves_and_lone_products_are_those_of_the_layers(
    kind: type[nn.RNNBase], options: dict[str, Any], packed: bool
) -> None:
    func, inputs = _by_layer(kind, options, packed)
    vector = tuple(torch.randn_like(entry) for entry in inputs)
    torch.manual_seed(2)
    value, product = torch.autograd.functional.vhp(func, inputs, vector)
    torch.manual_seed(2)
    H = programs.hessian(func, inputs, expect=1)
    # The first is a lone product, the second one is by halves.
    for found in (H @ vector, H @ vector):
        torch.testing.assert_close(found, product, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(H.value, value)


def _by_layer(kind: type[nn.RNNBase], options: dict[str, Any], packed: bool) -> tuple[Callable[..., Tensor], Any]:
    """A function of sequences that are not sorted by their lengths, and of the parameters of a layer."""
    torch.manual_seed(1)
    layer = kind(3, 4, **options).double()
    x = torch.randn(4, 3, 3, dtype=DOUBLE)
    lengths = torch.tensor([2, 4, 3] if layer.batch_first else [2, 4, 1])
    x = x.transpose(0, 1).contiguous() if layer.batch_first else x
    names = list(dict(layer.named_parameters()))

    def func(x: Tensor, *parameters: Tensor) -> Tensor:
        x = x.sin()
        if packed:
            x = pack_padded_sequence(x, lengths, batch_first=layer.batch_first, enforce_sorted=False)
        outputs, state = torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))
        if packed:
            outputs, _ = pad_packed_sequence(outputs, layer.batch_first, padding_value=0.5, total_length=5)
        states = state if isinstance(state, tuple) else (state,)
        return (outputs**2).sum().sin() + sum((entry**3).sum() for entry in states)

    return func, (x, *[parameter.detach() for parameter in layer.parameters()])


def test_lengths_of_packed_sequences_are_read_anew() -> None:
    lengths = torch.tensor([3, 2])

    def func(x: Tensor) -> Tensor:
        return layer(pack_padded_sequence(x, lengths))[0].data.square().sum()

    layer = nn.GRU(2, 2, dtype=DOUBLE)
    x, v = torch.randn(2, 3, 2, 2, dtype=DOUBLE)
    H = programs.hessian(func, x)
    lengths[1] = 1
    torch.testing.assert_close(H.at(x) @ v, torch.autograd.functional.vhp(func, x, v)[1])


def test_a_program_is_as_large_for_long_sequences_as_for_short_ones() -> None:
    sizes: dict[int, list[int]] = {}

    def compile(graph: Graph) -> Run:
        sizes[length].append(len(graph.graph.nodes))
        return run_as_it_is(graph)

    layer = nn.LSTM(2, 2, dtype=DOUBLE)
    for length in (3, 9):
        sizes[length] = []
        x = torch.randn(length, 2, 2, dtype=DOUBLE)
        H = programs.hessian(lambda x: layer(x)[0].square().sum(), x, backend=programs.compiling(compile))
        H @ x
    assert sizes[3] == sizes[9]
    assert len(sizes[3]) == 2
