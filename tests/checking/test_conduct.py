"""A check takes what it is given, leaves it as it was, and lets errors of the user's through."""

from __future__ import annotations

import gc
import random
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import hesse


class Busy(nn.Module):
    """Draws from every generator, counts in a buffer, and changes its own mode."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 2))
        self.register_buffer("calls", torch.zeros(()))
        self.generator = torch.Generator().manual_seed(5)

    def forward(self, x):
        self.calls += 1
        noise = torch.rand(4, generator=self.generator) + random.random() + np.random.rand()  # noqa: NPY002  # as users do
        return self.layers(x + noise).pow(2).sum()


def draws(model):
    return [torch.rand(1), random.random(), np.random.rand(), torch.rand(1, generator=model.generator)]  # noqa: NPY002  # as users do


def fresh():
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # as users do
    model, x = Busy(), torch.randn(6, 4)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.layers[3].eval()
    return model, x


@pytest.mark.parametrize("scope", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_everything_of_the_users_is_afterwards_as_it_was(scope):
    expected, x = fresh()
    values = [tensor.clone() for tensor in expected.state_dict().values()]
    drawn = draws(expected)

    model, x = fresh()
    held = {name: (tensor, tensor._version) for name, tensor in model.named_parameters()}
    modes = [part.training for part in model.modules()]
    with scope():
        hesse.check(model, x, rng=0)
    assert all(map(torch.equal, model.state_dict().values(), values))
    assert draws(model) == drawn
    assert [part.training for part in model.modules()] == modes
    for name, parameter in model.named_parameters():
        assert parameter is held[name][0]
        assert parameter._version == held[name][1]
        assert torch.equal(parameter.grad, torch.ones_like(parameter))
        assert parameter.requires_grad
    assert not x.requires_grad
    assert x.grad is None


def test_modes_of_pytorch_are_afterwards_as_they_were():
    import sys

    for func in (lambda x: (x**3).sum(), lambda x: (x * x.detach()).sum()):
        hesse.check(func, torch.ones(2))
        assert not torch.is_anomaly_enabled()
        assert torch.is_grad_enabled()
        assert sys.getprofile() is None
        assert torch.get_default_dtype() is torch.float32


def test_the_same_seed_gives_the_same_numbers():
    def func(x):
        return (x**3).sum() + x.prod()

    x = torch.tensor([1.0, 2.0, 3.0])
    one, same, other = [hesse.check(func, x, rng=seed) for seed in (1, 1, 2)]
    assert one.curvature == same.curvature
    assert one.asymmetry == same.asymmetry
    assert one.curvature != other.curvature


def test_what_the_function_raises_passes_through():
    class Theirs(Exception):
        pass

    class Raising(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, cotangent):
            raise Theirs("a fault of theirs")

    def fails(x):
        raise Theirs("a fault of theirs")

    for func in (fails, lambda x: Raising.apply(x).sum()):
        with pytest.raises(Theirs, match="a fault of theirs"):
            hesse.check(func, torch.ones(2))


@pytest.mark.parametrize(
    ("func", "inputs", "error", "message"),
    [
        (torch.sum, (torch.ones(2), 2), TypeError, "The inputs given to check must be"),
        (torch.sum, torch.arange(3), RuntimeError, "must be floating-point or complex"),
        (torch.sin, torch.ones(2), RuntimeError, "should contain a single element"),
        (lambda x: "x", torch.ones(2), TypeError, "The outputs of the user-provided function given to check"),
        (torch.sum, torch.ones(2, device="meta"), RuntimeError, "hold no numbers"),
        (lambda x: x.sum(), torch.ones(2, dtype=torch.complex64), RuntimeError, "should be real"),
    ],
)
def test_what_is_no_scalar_function_of_tensors_is_refused_in_one_sentence(func, inputs, error, message):
    with pytest.raises(error, match=message):
        hesse.check(func, inputs)


@pytest.mark.parametrize(
    ("func", "inputs", "options"),
    [
        (lambda x, y: (x**3 * y).sum(), (torch.ones(3), torch.full((3,), 2.0)), {}),
        (lambda p: (p["w"] ** 4).sum() * p["b"][0], {"w": torch.ones(2), "b": [torch.tensor(2.0)]}, {}),
        (lambda x: ((x**3).sum(), {"seen": x}), torch.ones(3), {"has_aux": True}),
        (lambda x, n: (x**n).sum(), (torch.ones(3) * 2, 3), {"argnums": 0}),
        (lambda z: (z.abs() ** 4).sum() + (z**3).real.sum(), torch.tensor([1 + 2j, 0.5 - 1j]), {}),
        (lambda x: (x**3).sum(), torch.tensor(2.0), {}),
        (lambda x: (x.to_dense() ** 3).sum(), torch.eye(3).to_sparse(), {}),
        (lambda x, y: (x**3).sum() + y.sum(), (torch.ones(3), torch.ones(0)), {}),
        (lambda x: (x.sum() ** 2).reshape(1, 1), torch.ones(2), {}),
        (lambda x: (1e30 * x**3).sum(), torch.tensor([1e-20, 2e-20], dtype=torch.float64), {}),
    ],
    ids=["two", "nested", "aux", "argnums", "complex", "scalar", "sparse", "empty", "shaped", "scaled"],
)
@pytest.mark.one_in(3)
def test_every_kind_of_inputs_is_taken(func, inputs, options):
    report = hesse.check(func, inputs, rng=0, **options)
    assert report.ok, report
    assert report.twice_differentiable


def test_a_curvature_that_is_zero_at_the_point_alone_is_told_too():
    report = hesse.check(lambda x: (x**3).sum(), torch.zeros(3))
    assert [finding.kind for finding in report.findings] == ["zero"]


def test_nothing_is_kept_alive():
    def func(x):
        return (x.detach() * x**2).sum()

    class Watched(torch.nn.Module):
        def forward(self, x):
            return func(x)

    model = Watched()
    watch = weakref.ref(model)
    x = torch.ones(3)
    tensor = weakref.ref(x)
    report = hesse.check(model, x)
    del model, x
    gc.collect()
    assert watch() is None
    assert tensor() is None
    assert not report.ok


def test_the_function_is_evaluated_some_twenty_times():
    calls = []

    def func(x):
        calls.append(None)
        return (x**3).sum() + x.prod()

    hesse.check(func, torch.tensor([1.0, 2.0, 3.0]))
    assert len(calls) < 25
