"""A small GPT whose attention is plain matrix products and a softmax, so that every peer can run it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workloads.base import Workload, of_network

HEADS = 4
VOCABULARY = 256


class Attention(nn.Module):
    mask: Tensor

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.joint = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.register_buffer("mask", causal_mask(length))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.joint(x).reshape(batch, length, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        query, key, value = parts[0], parts[1], parts[2]
        scores = query @ key.transpose(-1, -2) / math.sqrt(width // HEADS) + self.mask
        mixed = F.softmax(scores, dim=-1) @ value
        projected: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return projected


class Block(nn.Module):
    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, length)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, layers: int, width: int, length: int, words: int = VOCABULARY) -> None:
        super().__init__()
        self.tokens = nn.Embedding(words, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(Block(width, length) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions)))
        return logits.flatten(0, 1)


def causal_mask(length: int) -> Tensor:
    return torch.full((length, length), -1e9).triu(1)


def jax_twin() -> Callable[..., Any]:
    import jax

    from benchmarks.workloads import jax_layers

    def attention(parameters: dict[str, Any], prefix: str, x: Any, mask: Any) -> Any:
        batch, length, width = x.shape
        parts = jax_layers.linear(parameters, f"{prefix}.joint", x)
        parts = parts.reshape(batch, length, 3, HEADS, width // HEADS).transpose(2, 0, 3, 1, 4)
        query, key, value = parts[0], parts[1], parts[2]
        scores = query @ key.swapaxes(-1, -2) / math.sqrt(width // HEADS) + mask
        mixed = (jax.nn.softmax(scores) @ value).swapaxes(1, 2).reshape(batch, length, width)
        return jax_layers.linear(parameters, f"{prefix}.out", mixed)

    def loss(parameters: dict[str, Any], tokens: Any, targets: Any, mask: Any) -> Any:
        x = parameters["tokens.weight"][tokens] + parameters["positions"]
        num_blocks = 1 + max(int(key.split(".")[1]) for key in parameters if key.startswith("blocks."))
        for index in range(num_blocks):
            block = f"blocks.{index}"
            normed = jax_layers.layer_norm(parameters, f"{block}.norm1", x)
            x = x + attention(parameters, f"{block}.attention", normed, mask)
            normed = jax_layers.layer_norm(parameters, f"{block}.norm2", x)
            inner = jax.nn.gelu(jax_layers.linear(parameters, f"{block}.up", normed), approximate=False)
            x = x + jax_layers.linear(parameters, f"{block}.down", inner)
        logits = jax_layers.linear(parameters, "head", jax_layers.layer_norm(parameters, "norm", x))
        return jax_layers.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets)

    return loss


def build(dtype: torch.dtype = torch.float32, quick: bool = False) -> Workload:
    return of_size("gpt", (1, 8, 4, 2) if quick else (4, 128, 128, 8), VOCABULARY, dtype)


def build_many_words(dtype: torch.dtype = torch.float32, quick: bool = False) -> Workload:
    """28.8 million parameters, nearly all of them in the embedding and the head."""
    return of_size("gpt-words", (1, 8, 4, 2) if quick else (4, 256, 32, 4), 500 if quick else 50_000, dtype)


def of_size(name: str, size: tuple[int, int, int, int], words: int, dtype: torch.dtype) -> Workload:
    layers, width, length, batch = size
    torch.manual_seed(0)
    tokens = torch.randint(words, (batch, length + 1))
    many = f", {words:,} words" if words != VOCABULARY else ""
    return of_network(
        name,
        f"GPT, {layers} layers, d {width}, T {length}, batch {batch}{many}",
        GPT(layers, width, length, words),
        nn.CrossEntropyLoss(),
        (tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()),
        dtype,
        jax_twin=jax_twin,
        jax_data=(causal_mask(length).to(dtype),),
    )
