"""A function evaluated again leaves no trace."""

from __future__ import annotations

import random

import numpy as np
import torch

from hesse._autograd.preserving import preserved


class Busy(torch.nn.Module):
    """Draws, counts, replaces a buffer, changes its mode and accumulates gradients."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)
        self.weight = torch.nn.Parameter(torch.full((3,), 2.0))
        self.register_buffer("calls", torch.zeros(()))
        self.rng, self.own = np.random.default_rng(1), torch.Generator().manual_seed(2)

    def forward(self, x):
        self.eval()
        self.train(not self.training)
        self.calls = self.calls + 1
        noise = torch.rand(3) + random.random() + np.random.rand() + self.rng.random()  # noqa: NPY002  # as users do
        noise = noise + torch.rand(3, generator=self.own)
        loss = (self.norm(x * noise) * self.weight).pow(2).sum()
        loss.backward(retain_graph=True)
        with torch.no_grad():
            self.weight.mul_(1.5)
        return loss


def state(model, x):
    tensors = [*model.state_dict().values(), x, model.weight.grad]
    draws = [torch.rand(1), random.random(), np.random.rand(), model.rng.random()]  # noqa: NPY002  # as users do
    draws.append(torch.rand(1, generator=model.own))
    return [tensor.clone() for tensor in tensors], draws


def test_generators_tensors_gradients_buffers_and_modes_are_put_back():
    expected, found = [], []
    for evaluate, seen in ((False, expected), (True, found)):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002  # the generator that users' code draws from
        model, x = Busy(), torch.randn(4, 3)
        model.weight.grad = torch.ones(3)
        grad, calls, norm = model.weight.grad, model.calls, model.norm
        if evaluate:
            with preserved(model, x):
                model(x.requires_grad_())
                assert not torch.equal(model.weight.grad, torch.ones(3))
            x = x.detach()
        assert model.training
        assert norm.training
        assert model.weight.grad is grad
        assert model.calls is calls
        seen.extend(state(model, x))
    for before, after in zip(expected[0], found[0], strict=True):
        assert torch.equal(before, after)
    assert expected[1] == found[1]


def test_what_has_not_changed_is_not_written():
    weight = torch.ones(3)
    version = weight._version
    with preserved(lambda x: (x * weight).sum(), torch.ones(3)):
        (weight * 2).sum()
    assert weight._version == version


def test_things_are_put_back_after_an_exception():
    weight, not_a_number = torch.ones(3), torch.tensor(float("nan"))

    def func(x):
        weight.add_(x)
        not_a_number.fill_(0)
        raise ZeroDivisionError

    for scope in (torch.inference_mode, torch.enable_grad):
        try:
            with scope(), preserved(func, torch.ones(3)):
                func(torch.ones(3))
        except ZeroDivisionError:
            pass
        assert torch.equal(weight, torch.ones(3))
        assert not_a_number.isnan()
