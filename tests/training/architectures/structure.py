"""Networks by how they are put together: shared, tied, parametrized, compiled, scripted, frozen, of unusual classes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from ..training import Training, pairs


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.middle = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(self.embedding(tokens)).mean(1)))


def tied_embeddings() -> Training:
    batches = [(torch.randint(7, (rows, 3)), torch.randint(7, (rows,))) for rows in (5, 3)]
    return Training(Tied(), batches)


def shared_modules() -> Training:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Sequential(shared, nn.Linear(4, 3)))
    return Training(model, pairs(4))


def weight_norm() -> Training:
    first = parametrizations.weight_norm(nn.Linear(4, 5))
    return Training(nn.Sequential(first, nn.Tanh(), parametrizations.weight_norm(nn.Linear(5, 3), dim=None)), pairs(4))


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT


def parametrized_matrices() -> Training:
    first, second = nn.Linear(4, 4), parametrizations.orthogonal(nn.Linear(4, 4))
    parametrize.register_parametrization(first, "weight", Symmetric())
    return Training(nn.Sequential(first, nn.Tanh(), second, nn.Linear(4, 3)), pairs(4))


def compiled_module() -> Training:
    inner = torch.compile(nn.Sequential(nn.Linear(4, 5), nn.Tanh()), backend="eager")
    return Training(nn.Sequential(inner, nn.Linear(5, 3)), pairs(4, rows=(4, 4)))


def compiled_in_place() -> Training:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    model.compile(backend="eager")
    return Training(model, pairs(4, rows=(4, 4)))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * torch.sigmoid(self.b(x))


def scripted_module() -> Training:
    model = nn.Sequential(torch.jit.script(Gated()), nn.Linear(3, 3))
    # TorchScript rounds otherwise once it has optimized what it has seen a few times.
    for _ in range(4):
        torch.autograd.grad(model(torch.randn(5, 4)).sum(), list(model.parameters()))
    return Training(model, pairs(4))


class LowRank(nn.Module):
    """A frozen layer with a correction of rank one."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(1, layer.in_features) / 2)
        self.up = nn.Parameter(torch.zeros(layer.out_features, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x @ self.down.mT @ self.up.mT


def low_rank_adaptation() -> Training:
    return Training(nn.Sequential(LowRank(nn.Linear(4, 5)), nn.Tanh(), LowRank(nn.Linear(5, 3))), pairs(4))


class Hyper(nn.Module):
    """Makes the weights of another module, which is called with them."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.randn(3))
        self.maker = nn.Linear(3, 15)
        self.inner = [nn.Linear(4, 3).requires_grad_(False)]

    def forward(self, x: Tensor) -> Tensor:
        made = self.maker(self.code)
        weights = {"weight": made[:12].view(3, 4), "bias": made[12:]}
        return torch.func.functional_call(self.inner[0], weights, (x,))


def hypernetwork() -> Training:
    return Training(Hyper(), pairs(4))


class Ensemble(nn.Module):
    """Members whose stacked parameters go through one vmap."""

    def __init__(self) -> None:
        super().__init__()
        members = [nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)) for _ in range(2)]
        stacked, _ = torch.func.stack_module_state(members)
        self.stacked = nn.ParameterDict(
            {name.replace(".", "_"): nn.Parameter(tensor.detach()) for name, tensor in stacked.items()}
        )
        self.skeleton = [copy.deepcopy(members[0]).to("meta")]

    def forward(self, x: Tensor) -> Tensor:
        named = {name.replace("_", "."): tensor for name, tensor in self.stacked.items()}

        def call(parameters: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(self.skeleton[0], parameters, (x,))

        return torch.vmap(call)(named).mean(0)


def ensemble_in_one_vmap() -> Training:
    return Training(Ensemble(), pairs(4))


class Guarded(nn.Module):
    """Slots, properties, and attributes that are looked up and set by methods of its own."""

    __slots__ = ("gain",)

    def __init__(self) -> None:
        super().__init__()
        self.gain = 1.25
        self.linear, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.settings = {"power": 2.0}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "gain": self.gain}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({key: value for key, value in state.items() if key != "gain"})
        self.gain = state["gain"]

    @property
    def weight(self) -> Tensor:
        """The weight as it is used."""
        return self.linear.weight * self.gain

    def __getattr__(self, name: str) -> Any:
        if name == "power":
            return self.settings["power"]
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "power":
            self.settings["power"] = value
        else:
            super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(x, self.weight, self.linear.bias).tanh() ** self.power)


def slots_and_properties() -> Training:
    return Training(Guarded(), pairs(4))


class Method:
    """A plain object that holds a module and a bound method of another."""

    def __init__(self, module: nn.Module, call: Callable[[Tensor], Tensor]) -> None:
        self.module, self.call = module, call


class Indirect(nn.Module):
    """Reaches its layers through plain objects, closures and bound methods."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)
        self.way = Method(self.first, self.finish)
        self.start = lambda x: self.first(x).tanh()
        self.parts = {"head": self.second, "order": [self.first, self.second]}

    def finish(self, x: Tensor) -> Tensor:
        return self.parts["head"](x)

    def forward(self, x: Tensor) -> Tensor:
        return self.way.call(self.start(self.way.module(x)))


def layers_behind_objects() -> Training:
    return Training(Indirect(), pairs(4))


def lists_and_dicts_of_parameters() -> Training:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([torch.randn(4, 4) / 2, torch.randn(4, 3) / 2])
            self.others = nn.ParameterDict({"bias": torch.zeros(3), "frozen": nn.Parameter(torch.ones(3), False)})

        def forward(self, x: Tensor) -> Tensor:
            for weight in self.weights:
                x = (x @ weight).tanh()
            return x + self.others["bias"] * self.others["frozen"]

    return Training(Listed(), pairs(4), optimizer=torch.optim.Adagrad)
