"""Feed-forward networks and losses, differentiated by their parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .scenario import Case, draw, scenario


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """The parameters as plain tensors by name: the inputs of a functional call."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def by_parameters(model: nn.Module, loss: Callable[[Tensor], Tensor], *arguments: Tensor) -> Case:
    """The loss of the model's output on fixed arguments, as a function of its parameters."""
    model = model.double()

    def func(parameters: dict[str, Tensor]) -> Tensor:
        return loss(torch.func.functional_call(model, parameters, arguments))

    return Case(func, parameters_of(model))


def _network(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 3), activation, nn.Linear(3, 1))


def _regression(activation: nn.Module) -> Case:
    targets = draw(6, 1)
    return by_parameters(_network(activation), lambda output: F.mse_loss(output, targets), draw(6, 3))


@scenario
def mlp_with_tanh() -> Case:
    return _regression(nn.Tanh())


@scenario
def mlp_with_exact_gelu() -> Case:
    return _regression(nn.GELU())


@scenario
def mlp_with_tanh_gelu() -> Case:
    return _regression(nn.GELU(approximate="tanh"))


@scenario
def mlp_with_silu() -> Case:
    return _regression(nn.SiLU())


@scenario
def mlp_with_softplus() -> Case:
    return _regression(nn.Softplus())


@scenario
def mlp_with_mish() -> Case:
    return _regression(nn.Mish())


@scenario
def mlp_with_elu() -> Case:
    return _regression(nn.ELU())


@scenario
def mlp_with_relu() -> Case:
    # Piecewise linear: the curvature is that of the loss alone, away from the kinks, where draws lie.
    return _regression(nn.ReLU())


@scenario
def classifier_with_cross_entropy() -> Case:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    labels = torch.tensor([0, 2, 1, 1, 0])
    return by_parameters(model, lambda logits: F.cross_entropy(logits, labels), draw(5, 3))


@scenario
def cross_entropy_weighted_smoothed_and_ignoring() -> Case:
    labels = torch.tensor([0, 2, -100, 1])
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)

    def func(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, weight=weight, ignore_index=-100, label_smoothing=0.1)

    return Case(func, draw(4, 3))


@scenario
def divergence_of_two_softmaxes() -> Case:
    def func(left: Tensor, right: Tensor) -> Tensor:
        return F.kl_div(left.log_softmax(-1), right.log_softmax(-1), log_target=True, reduction="batchmean")

    return Case(func, (draw(3, 4), draw(3, 4)))


@scenario
def huber_on_both_sides_of_its_kink() -> Case:
    targets = torch.tensor([0.3, -0.2, 4.0, -5.0], dtype=torch.float64)
    return Case(lambda x: F.huber_loss(x**2, targets), 0.3 * draw(4))


@scenario
def gaussian_likelihood_with_learned_variance() -> Case:
    targets = draw(5)

    def func(mean: Tensor, log_variance: Tensor) -> Tensor:
        return F.gaussian_nll_loss(mean, targets, log_variance.exp())

    return Case(func, (draw(5), 0.3 * draw(5)))


@scenario
def residual_network_with_bilinear_layer() -> Case:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)
            self.gate = nn.Bilinear(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            hidden = x + torch.sigmoid(self.inner(x))
            return self.gate(hidden, x)

    return by_parameters(Residual(), lambda output: (output**2).mean(), draw(5, 3))


@scenario
def autoencoder_with_tied_weights() -> Case:
    data = draw(5, 4)

    def func(weight: Tensor, bias: Tensor) -> Tensor:
        code = torch.tanh(data @ weight)
        return F.mse_loss(code @ weight.T + bias, data)

    return Case(func, (draw(4, 2), draw(4)))


@scenario
def module_whose_two_layers_share_one_parameter() -> Case:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return by_parameters(model, lambda output: (output**2).mean(), draw(4, 3))


@scenario
def contrastive_loss_of_normalized_embeddings() -> Case:
    weight = draw(3, 4)

    def func(left: Tensor, right: Tensor) -> Tensor:
        similarities = F.normalize(left @ weight, dim=-1) @ F.normalize(right @ weight, dim=-1).T
        return F.cross_entropy(similarities / 0.5, torch.arange(3))

    return Case(func, (draw(3, 3), draw(3, 3)))


@scenario
def dropout_in_training() -> Case:
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 1))
    return by_parameters(model.train(), lambda output: (output**2).mean(), draw(5, 3))


@scenario
def gumbel_softmax_with_noise() -> Case:
    return Case(lambda logits: (F.gumbel_softmax(logits, tau=0.7) ** 2).sum(), draw(3, 4))
