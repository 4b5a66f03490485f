"""What a user does with hesse between the steps of a training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import hesse

from .training import Training, floating

Use = Callable[[Training], object]


def _operator(kind: type, engine: str, *, recomputed: bool = False) -> Use:
    """An operator over data: all that it gives."""

    def use(training: Training) -> object:
        chosen = {**training.options, **({"memory": training.little} if recomputed else {})}
        if not training.has_pairs and kind is not hesse.LossHessian:
            return None
        H = kind(training.model, training.loss, training.batches, engine=engine, **chosen)
        v = torch.linspace(-1, 1, H.shape[1])
        with H:
            return H.value, H.gradient, H @ v, H @ v[:, None].expand(-1, 3), H.at() @ v, str(H.explain())

    return use


class Called:
    """A model with other parameters, called like the model."""

    def __init__(self, model: nn.Module, parameters: dict[str, Tensor]) -> None:
        self.model, self.parameters = model, parameters

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(self.model, self.parameters, args, kwargs)


def _by_parameters(training: Training) -> tuple[Callable[..., Tensor], Any]:
    """The loss by the parameters, in a copy of the model: PyTorch's call swaps those of the model that it gets."""
    model, batch = copy.deepcopy(training.model), training.batches[0]
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return lambda given: training.loss_of(Called(model, given), batch), parameters


def _by_inputs(training: Training) -> tuple[Callable[..., Tensor], Any]:
    """The loss by the floating-point input of a batch; of the user's own model where it does not remember."""
    model = copy.deepcopy(training.model) if training.remembers else training.model
    batch: Any = training.batches[0]
    x = floating(batch)
    if x is None:
        return _by_parameters(training)
    if isinstance(batch, dict):
        return lambda x: training.loss_of(model, {**batch, "x": x}), x
    if isinstance(batch, tuple):
        return lambda x: training.loss_of(model, (x, batch[1])), x
    return lambda x: training.loss_of(model, x), x


Function = Callable[[Training], tuple[Callable[..., Tensor], Any]]


def _hessian(make: Function, engine: str) -> Use:
    def use(training: Training) -> object:
        H = hesse.Hessian(*make(training), engine=engine)
        v = torch.linspace(-1, 1, H.shape[1])
        with H:
            return H.value, H.gradient, H @ v, H @ v[:, None].expand(-1, 3)

    return use


def _products(make: Function) -> Use:
    """The functions of the contract, with their graphs and without."""

    def use(training: Training) -> object:
        func, inputs = make(training)
        found = []
        for create_graph in (False, True):
            found.append(hesse.vhp(func, (inputs,), (inputs,), create_graph=create_graph))
            found.append(hesse.functional.jvp(func, (inputs,), (inputs,), create_graph=create_graph))
        return found, hesse.hvp(func, inputs, inputs), hesse.functional.vjp(func, inputs)

    return use


def _jacobian(engine: str) -> Use:
    def use(training: Training) -> object:
        func, inputs = _by_inputs(training)
        J = hesse.Jacobian(lambda x: func(x).reshape(1), inputs, engine=engine)
        with J:
            return J @ torch.linspace(-1, 1, J.shape[1]), J.T @ torch.ones(1)

    return use


def _check(training: Training) -> object:
    return str(hesse.check(*_by_inputs(training), rng=0))


def _questions(training: Training) -> object:
    H = hesse.LossHessian(training.model, training.loss, training.batches, **training.options)
    return hesse.eigsh(H, k=1, rng=0, max_products=4), hesse.trace(H, rng=0, max_products=4)


USES: dict[str, Use] = {
    **{
        f"{kind.__name__}, {engine}": _operator(kind, engine)
        for kind in (hesse.LossHessian, hesse.GaussNewton, hesse.Fisher, hesse.EmpiricalFisher)
        for engine in ("tape", "compiled")
    },
    "LossHessian, recomputed": _operator(hesse.LossHessian, "tape", recomputed=True),
    "GaussNewton, recomputed": _operator(hesse.GaussNewton, "tape", recomputed=True),
    "Hessian by parameters, tape": _hessian(_by_parameters, "tape"),
    "Hessian by parameters, compiled": _hessian(_by_parameters, "compiled"),
    "Hessian by inputs, tape": _hessian(_by_inputs, "tape"),
    "Hessian by inputs, compiled": _hessian(_by_inputs, "compiled"),
    "Jacobian, tape": _jacobian("tape"),
    "Jacobian, compiled": _jacobian("compiled"),
    "products by parameters": _products(_by_parameters),
    "products by inputs": _products(_by_inputs),
    "questions": _questions,
    "check": _check,
}
