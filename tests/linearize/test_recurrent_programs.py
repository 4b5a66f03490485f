"""Recurrent layers by programs: each step is plain operations, where the tape takes oneDNN's layer in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import programs


@pytest.mark.parametrize("options", [{"batch_first": True}, {"num_layers": 2, "bidirectional": True}, {}], ids=str)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.private
@pytest.mark.one_in(9)
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
