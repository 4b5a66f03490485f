"""Recurrent networks, embeddings, attention and a small transformer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .networks import by_parameters
from .scenario import Case, draw, scenario


@scenario
def lstm() -> Case:
    model = nn.LSTM(2, 2, batch_first=True).double()
    return by_parameters(model, lambda result: (result[0] ** 2).sum() + result[1][1].sum(), draw(2, 3, 2))


@scenario
def gru_by_inputs_and_state() -> Case:
    model = nn.GRU(2, 3).double()
    return Case(lambda x, state: (model(x, state)[0] ** 2).sum(), (draw(4, 2, 2), draw(1, 2, 3)))


@scenario
def elman_network_in_two_directions() -> Case:
    model = nn.RNN(2, 2, bidirectional=True).double()
    return by_parameters(model, lambda result: (result[0] ** 2).sum(), draw(3, 2, 2))


@scenario
def lstm_cell_in_a_loop() -> Case:
    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(2, 2)

        def forward(self, steps: Tensor) -> Tensor:
            state = None
            for step in steps:
                state = self.cell(step, state)
            return state[0]

    return by_parameters(Unrolled(), lambda output: (output**2).sum(), draw(3, 2, 2))


@scenario
def embedding_with_repeated_tokens() -> Case:
    tokens = torch.tensor([[0, 3, 3], [2, 0, 3]])

    def func(table: Tensor) -> Tensor:
        return torch.tanh(F.embedding(tokens, table).prod(1)).sum()

    return Case(func, draw(4, 3))


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention by hand: PyTorch's fused attention has no double backward."""
    length = queries.shape[-2]
    scores = queries @ keys.mT / math.sqrt(queries.shape[-1])
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1) @ values


@scenario
def causal_attention() -> Case:
    return Case(
        lambda queries, keys, values: (attend(queries, keys, values) ** 2).sum(),
        (draw(1, 2, 3, 3), draw(1, 2, 3, 3), draw(1, 2, 3, 3)),
    )


@scenario
def attention_by_the_math_backend() -> Case:
    def func(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return (attended**2).sum()

    return Case(func, (draw(1, 2, 3, 2), draw(1, 2, 3, 2), draw(1, 2, 3, 2)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        projected = self.attention(self.norms[0](x)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = projected.permute(2, 0, 3, 1, 4).unbind(0)
        attended = attend(queries, keys, values).transpose(1, 2).flatten(2)
        x = x + self.projection(attended)
        return x + self.contract(F.gelu(self.expand(self.norms[1](x))))


class _Transformer(nn.Module):
    """A language model of one block whose output layer is its token table."""

    def __init__(self, tokens: int, length: int, width: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(tokens, width)
        self.places = nn.Embedding(length, width)
        self.block = _Block(width, heads)
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, tokens, bias=False)
        self.output.weight = self.tokens.weight

    def forward(self, text: Tensor) -> Tensor:
        x = self.tokens(text) + self.places(torch.arange(text.shape[1]))
        return self.output(self.norm(self.block(x)))


@scenario
def small_transformer() -> Case:
    text, following = torch.tensor([[0, 4, 2], [3, 1, 1]]), torch.tensor([[4, 2, 3], [1, 1, 0]])
    model = _Transformer(tokens=5, length=3, width=4, heads=2)
    return by_parameters(model, lambda logits: F.cross_entropy(logits.flatten(0, 1), following.flatten()), text)
