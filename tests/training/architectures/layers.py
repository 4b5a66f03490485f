"""Networks by what their layers compute."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..training import Training, pairs


def perceptron_with_dropout() -> Training:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 3))
    return Training(model, pairs(4), draws=True, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01))


def convolutions_with_batch_norm() -> Training:
    block = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    model = nn.Sequential(*block, nn.Flatten(), nn.Linear(36, 3))
    return Training(model, pairs(2, 6, 6), options={"batch_norm": "per batch"}, remembers=True)


class Residual(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 2 * channels, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(2 * channels, 2 * channels, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(2 * channels), nn.GroupNorm(2, 2 * channels)
        self.short = nn.Conv2d(channels, 2 * channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.first(x)))
        return F.relu(self.norm2(self.second(y)) + self.short(x))


def residual_network_with_frozen_statistics() -> Training:
    model = nn.Sequential(Residual(2, 2), Residual(4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return Training(model, pairs(2, 6, 6))


class Last(nn.Module):
    """A recurrent layer, and a classifier of its last output."""

    def __init__(self, recurrent: nn.Module, features: int) -> None:
        super().__init__()
        self.recurrent, self.head = recurrent, nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


def long_short_term_memory() -> Training:
    model = Last(nn.LSTM(3, 4, num_layers=2, batch_first=True), 4)
    optimizer = torch.optim.RMSprop
    return Training(model, pairs(4, 3), optimizer=lambda parameters: optimizer(parameters, lr=0.01), little="250KB")


def gated_recurrent_unit_both_ways() -> Training:
    return Training(Last(nn.GRU(3, 4, batch_first=True, bidirectional=True), 8), pairs(4, 3))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.position = nn.Parameter(torch.randn(5, 8) / 10)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x + self.position).mean(1))


def transformer_encoder() -> Training:
    return Training(Encoder(), pairs(5, 8), optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01))


class Experts(nn.Module):
    """Each row goes to its two likeliest experts; how often each was taken is counted in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)) for _ in range(3)])
        self.taken = [0, 0, 0]

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(-1).topk(2)
        total = torch.zeros(len(x), 3)
        for place, expert in enumerate(self.experts):
            rows, rank = torch.where(chosen == place)
            self.taken[place] += len(rows)
            total = total.index_add(0, rows, expert(x[rows]) * weights[rows, rank, None])
        return total


def mixture_of_experts() -> Training:
    return Training(Experts(), pairs(4), remembers=True)


class GraphConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 5), nn.Linear(5, 3)])

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        for layer in self.layers:
            source, target = edges
            degree = torch.ones(len(x)).index_add(0, target, torch.ones(len(target)))
            x = layer(x + torch.zeros_like(x).index_add(0, target, x[source])) / degree[:, None].sqrt()
            x = F.silu(x)
        return x


def graph_convolution() -> Training:
    batches = []
    for nodes in (6, 4):
        edges = torch.randint(nodes, (2, 2 * nodes))
        batches.append({"x": torch.randn(nodes, 3), "edges": edges, "y": torch.randint(3, (nodes,))})

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["x"], batch["edges"]), batch["y"])

    options = {"reduction": "mean", "weight": lambda batch: len(batch["y"])}
    return Training(GraphConvolution(), batches, loss, options)


class Fourier(nn.Module):
    """A spectral convolution with complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5, dtype=torch.complex64) / 3)
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.fft.irfft(torch.fft.rfft(x, dim=-1) * self.weight, n=x.shape[-1], dim=-1)
        return self.head(torch.tanh(y).mean(-1))


def fourier_operator_with_complex_parameters() -> Training:
    return Training(Fourier(), pairs(3, 8))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU()) for _ in range(2)])
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=False)
        return self.head(x)


def checkpointed_blocks() -> Training:
    return Training(Checkpointed(), pairs(4))


class Equilibrium(nn.Module):
    """Iterates to a fixed point, for as long as it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        while True:
            following = torch.tanh(0.3 * self.inner(z) + x)
            if (following - z).abs().max() < 1e-2:
                return self.outer(following)
            z = following


def deep_equilibrium() -> Training:
    return Training(Equilibrium(), pairs(4))


def physics_informed() -> Training:
    model = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1))

    def loss(model: nn.Module, points: Tensor) -> Tensor:
        points = points if points.requires_grad else points.detach().requires_grad_()
        u = model(points)
        (slope,) = torch.autograd.grad(u.sum(), points, create_graph=True)
        (second,) = torch.autograd.grad(slope[:, 0].sum(), points, create_graph=True)
        return (slope[:, 1:] - math.pi * second[:, :1] + u.sin()).square().mean()

    return Training(model, [torch.rand(6, 2), torch.rand(3, 2)], loss, {"reduction": "mean"})


class HalfPrecision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.body(x).tanh()
        return self.head(y.float())


def autocast_inside() -> Training:
    return Training(HalfPrecision(), pairs(4), options={"reduction": "mean", "verify": False})


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (x * 8).round() / 8

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent


class Quantized(nn.Module):
    """Weights are rounded, with gradients straight through; an observer keeps the range of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, Round.apply(self.layer.weight), self.layer.bias)
        self.largest.copy_(torch.maximum(self.largest, y.detach().abs().max()))
        return self.head(torch.tanh(y))


def quantization_aware() -> Training:
    return Training(Quantized(), pairs(4), remembers=True)
