"""Models with several batches of data: the digits, a small convolutional network, a small GPT.

Batches are of equal size, since one of the peers averages over batches, and activations are such that every peer can
differentiate them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks.workloads import cnn, gpt, mlp
from benchmarks.workloads.base import Workload, of_network

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Problem:
    """A model, a loss and batches; and the same loss of all of them in one batch as a workload, with one vector."""

    model: nn.Module
    loss: nn.Module
    batches: list[Batch]
    whole: Workload

    @property
    def vector(self) -> Tensor:
        """The vector that is multiplied, flat."""
        return self.whole.rows[0]


def digits(quick: bool) -> tuple[str, nn.Module, list[Batch]]:
    number, size = (2, 8) if quick else (7, 256)
    x, y = mlp.digits()
    model = mlp.perceptron(64, 4, 10) if quick else mlp.perceptron(64, 64, 64, 10)
    return "Digits", model, list(zip(x[: number * size].split(size), y[: number * size].split(size), strict=True))


def convolutional(quick: bool) -> tuple[str, nn.Module, list[Batch]]:
    number, size, width, pixels = (2, 2, 8, 8) if quick else (4, 16, 16, 32)
    model = cnn.network(width, nn.Tanh)
    shapes = [((size, 3, pixels, pixels), (size,)) for _ in range(number)]
    return "CNN with GroupNorm", model, [(torch.randn(x), torch.randint(10, y)) for x, y in shapes]


class Language(nn.Module):
    """The GPT with its logits laid out as cross entropy takes a batch of sequences: (rows, words, tokens)."""

    def __init__(self, layers: int, width: int, length: int) -> None:
        super().__init__()
        self.gpt = gpt.GPT(layers, width, length)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.gpt(tokens)
        return logits.unflatten(0, tokens.shape).transpose(1, 2)


def language(quick: bool) -> tuple[str, nn.Module, list[Batch]]:
    number, size, layers, width, length = (2, 2, 1, 8, 4) if quick else (4, 8, 2, 64, 64)
    tokens = [torch.randint(gpt.VOCABULARY, (size, length + 1)) for _ in range(number)]
    batches = [(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()) for batch in tokens]
    return f"GPT, {layers} layers, d {width}, T {length}", Language(layers, width, length), batches


BUILDERS: dict[str, Callable[[bool], tuple[str, nn.Module, list[Batch]]]] = {
    "digits": digits,
    "cnn": convolutional,
    "gpt": language,
}


def build(name: str, dtype: torch.dtype = torch.float32, quick: bool = False, most: int | None = None) -> Problem:
    """The problem of that name with at most so many batches, drawn in float32 and cast."""
    torch.manual_seed(0)
    title, model, batches = BUILDERS[name](quick)
    loss = nn.CrossEntropyLoss()
    batches = [(x.to(dtype) if x.is_floating_point() else x, y) for x, y in batches[:most]]
    together = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    title = f"{title}, {len(batches)} batch{'es' if len(batches) > 1 else ''} of {len(batches[0][0])}"
    whole = of_network(name, title, model, loss, together, dtype)
    return Problem(model, loss, batches, replace(whole, rows=whole.rows[:1].contiguous()))
