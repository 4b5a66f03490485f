"""cuDNN's recurrent layers: inside of hesse they are PyTorch's own, in plain operations.

The gradient of cuDNN's layers is one fused operator, ``_cudnn_rnn_backward``, of a list of weights and a reserve of
cuDNN's own format, from which nothing can be pulled back twice. PyTorch spells each layer out in plain operations as
well, step by step, and those can be differentiated as often as one likes; values agree to rounding. Dropout between
layers is drawn by cuDNN in a way of its own, so such a layer stays PyTorch's, and its second derivative is refused.

Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html, GRU and RNN; the sources of torch._decomp
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hesse._rules.scope import intercept, operator_of

LAYERS = tuple(
    [f"aten::{kind}.{form}" for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu") for form in ("input", "data")]
)
"""The operators, for padded sequences and for packed ones."""


def by_cudnn(entry: Tensor) -> bool:
    """Whether PyTorch would take cuDNN's layer for a sequence."""
    return entry.is_cuda and bool(torch.backends.cudnn.is_acceptable(entry))  # type: ignore[no-untyped-call]  # no types there


def _register(name: str) -> None:
    operator: Any = operator_of(name)
    if operator is None:
        return
    places = {parameter.name: place for place, parameter in enumerate(operator._schema.arguments)}

    def kernel(*args: Any, **kwargs: Any) -> Any:
        arguments = {**{name: args[place] for name, place in places.items() if place < len(args)}, **kwargs}
        draws = arguments["dropout"] > 0 and arguments["train"] and arguments["num_layers"] > 1
        if draws or not by_cudnn(args[0]):
            return operator(*args, **kwargs)
        return operator.decompose(*args, **kwargs)

    intercept(name, kernel)


for _name in LAYERS:
    _register(_name)
