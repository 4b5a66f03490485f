"""Networks that keep things: caches, counts, statistics, hidden states, teachers."""

from __future__ import annotations

import copy
import functools
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from ..training import Training, pairs


def spectral_norm() -> Training:
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))
    return Training(model, pairs(4), remembers=True)


class Biased(nn.Module):
    """Attention over places whose bias is gathered from a parameter, and kept in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 3)
        self.biases = nn.Parameter(torch.randn(3))
        self.register_buffer("places", torch.tensor([[0, 1, 2], [1, 0, 1], [2, 1, 0]]), persistent=False)
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Biased:
        super().train(mode)
        if mode:
            self.cache = {}
        return self

    def bias(self) -> Tensor:
        if self.training:
            return self.biases[self.places]
        if "bias" not in self.cache:
            self.cache["bias"] = self.biases[self.places]
        return self.cache["bias"]

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.head(((q @ k.mT + self.bias()).softmax(-1) @ v).mean(1))


def attention_with_cached_biases() -> Training:
    # In training nothing is cached; the loop validates after each step, which fills and empties the cache.
    model = Biased()
    x = torch.randn(2, 3, 4)

    def validate() -> None:
        model.eval()
        with torch.no_grad():
            model(x)
        model.train()

    return Training(model, pairs(3, 4), after=validate)


def attention_evaluated_with_an_empty_cache() -> Training:
    model = Biased().eval()
    return Training(model, pairs(3, 4), after=model.cache.clear, remembers=True)


class Standardized(nn.Module):
    """Running statistics as buffers that are replaced, plain tensors written in place, and a count."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.register_buffer("mean", torch.zeros(4))
        self.scale = torch.ones(4)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        self.scale.mul_(0.9).add_(0.1 * x.detach().std(0))
        self.calls += 1
        return self.head((x - self.mean) / self.scale)


def statistics_of_its_own() -> Training:
    return Training(
        Standardized(), pairs(4), remembers=True, options={"reduction": "mean", "weight": lambda batch: len(batch[0])}
    )


class Lazy(nn.Module):
    """Makes a table, and a layer without parameters, when it is first called."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None or self.table.shape[0] < x.shape[1]:
            self.table = torch.arange(float(x.shape[1]))[:, None].mul(torch.tensor([1.0, 0.5, 0.2, 0.1])).sin()
        if not hasattr(self, "activation"):
            self.activation = nn.Softplus()
        return self.head(self.activation(x + self.table[: x.shape[1]]).mean(1))


def state_made_at_the_first_call() -> Training:
    return Training(Lazy(), pairs(5, 4), remembers=True)


class Teaching(nn.Module):
    """A student beside its teacher, whose parameters are an average of the student's."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            wanted = self.teacher(x)
        return self.student(x), wanted

    def update(self) -> None:
        with torch.no_grad():
            for mean, now in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                mean.lerp_(now, 0.1)


def mean_teacher() -> Training:
    model = Teaching()

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        found, wanted = model(batch["x"])
        return F.cross_entropy(found, batch["y"]) + F.mse_loss(found, wanted)

    batches = [{"x": x, "y": y} for x, y in pairs(4)]
    return Training(model, batches, loss, after=model.update)


def averaged_model() -> Training:
    model = nn.Sequential(nn.Linear(4, 5), nn.SiLU(), nn.Linear(5, 3))
    averaged = torch.optim.swa_utils.AveragedModel(model)
    return Training(model, pairs(4), after=lambda: averaged.update_parameters(model), beside=averaged)


class Stateful(nn.Module):
    """Truncated back-propagation: the hidden state goes on from batch to batch."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(4, 4), nn.Linear(4, 3)
        self.hidden: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.zeros(len(x), 4) if self.hidden is None else self.hidden
        for step in x.unbind(1):
            hidden = self.cell(step, hidden)
        self.hidden = hidden.detach()
        return self.head(hidden)


def recurrent_with_a_state_that_stays() -> Training:
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["x"]), batch["y"])

    batches = [{"x": x, "y": y} for x, y in pairs(2, 4, rows=(4, 4))]
    return Training(Stateful(), batches, loss, {"reduction": "mean", "weight": lambda batch: 4}, remembers=True)


class Noisy(nn.Module):
    """Noise from generators of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.own = torch.Generator().manual_seed(7)
        self.theirs = np.random.default_rng(8)

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(4, generator=self.own) + float(self.theirs.normal())
        return self.head((self.body(x) + 0.1 * noise).tanh())


def generators_of_its_own() -> Training:
    return Training(Noisy(), pairs(4), draws=True, remembers=True, options={"weight": lambda batch: len(batch[0])})


class Memoizing(nn.Module):
    """Methods with caches, a dict by shape, a weak reference to the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.masks: dict[tuple[int, ...], Tensor] = {}
        self.window = functools.lru_cache(maxsize=4)(self._window)
        self.whole = [weakref.ref(self)]

    @staticmethod
    def _window(length: int) -> Tensor:
        return torch.linspace(0.5, 1.0, length)

    def forward(self, x: Tensor) -> Tensor:
        shape = tuple(x.shape[1:])
        if shape not in self.masks:
            self.masks[shape] = torch.ones(shape).tril()
        x = x * self.masks[shape] * self.window(x.shape[1])[:, None]
        return self.head(self.whole[0]().layer(x).sigmoid().mean(1))


def caches_by_shape() -> Training:
    # A deep copy, which these take, has weak references to the original.
    refused = {"Hessian by parameters": "uses the captured tensor"}
    return Training(Memoizing(), pairs(3, 4), remembers=True, refused=refused)


class Recorder:
    """What hooks write into."""

    __slots__ = ("seen", "sizes")

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.sizes: list[int] = []


def hooks_of_every_kind() -> Training:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    recorder = Recorder()
    model.recorder = recorder

    def forward(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        recorder.seen.append("forward")
        return output * 1.5

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        recorder.sizes.append(len(args[0]))
        return (args[0] + 0.1,)

    model[0].register_forward_hook(forward)
    model[2].register_forward_pre_hook(before)
    model[1].register_full_backward_hook(lambda module, inputs, outputs: None)
    model.register_state_dict_pre_hook(lambda module, prefix, keep: recorder.seen.append("state"))
    model[0].weight.register_hook(lambda gradient: gradient.clamp(-1, 1))
    model[2].weight.register_post_accumulate_grad_hook(lambda weight: recorder.seen.append("accumulated"))
    return Training(model, pairs(4), remembers=True, beside=recorder)
