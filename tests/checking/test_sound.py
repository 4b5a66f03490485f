"""Nothing is found where nothing is wrong, and what is worth knowing is noted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hesse
from hesse._checking import engines

from ..scenarios.scenario import Scenario
from ..scenarios.table import EVERY_SCENARIO

# What the scenarios themselves are about.
FOUND = {
    "linear": "zero",
    "constant_that_requires_no_gradient": "zero",
    "cut_off_by_detach": "zero",
    "dropout_in_training": "random",
    "gumbel_softmax_with_noise": "random",
    "checkpointed_block_with_dropout": "random",
}


@EVERY_SCENARIO
@pytest.mark.one_in(13)
def test_every_scenario_is_well_but_those_that_draw_or_have_no_curvature(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which of them the compiled engine takes, and whether rightly, is tested with that engine.
    monkeypatch.setattr(engines, "_MOST_NODES", 0)
    case = scenario.build()
    report = hesse.check(case.func, case.inputs, rng=0)
    assert [finding.kind for finding in report.findings] == ([FOUND[scenario.name]] if scenario.name in FOUND else [])
    if report.curvature is not None:
        assert report.slope.verdict == report.curvature.verdict == "agrees"
        assert report.curvature.error <= report.curvature.tolerance


class Lower(nn.Module):
    """Computes in bfloat16 inside."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(x).float()


def perceptron(activation) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 200), activation, nn.Linear(200, 200), activation, nn.Linear(200, 3))


def loss_of(model, dtype=torch.float32):
    x, target = torch.randn(32, 20, dtype=dtype), torch.randint(3, (32,))

    def loss(parameters):
        return nn.functional.cross_entropy(torch.func.functional_call(model, parameters, (x,)), target)

    return loss, dict(model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU()])
@pytest.mark.one_in(7)
def test_networks_are_well_in_every_precision_and_with_kinks(activation, dtype):
    report = hesse.check(*loss_of(perceptron(activation).to(dtype), dtype), rng=0)
    assert report.ok, report
    # Captured data and weights of single precision do not keep it from being compared in double.
    assert report.curvature.precision is torch.float64
    assert report.curvature.error < 1e-5
    assert (report.rounding is None) == (dtype is torch.float64)


def test_low_precision_inside_is_named_with_what_it_costs():
    report = hesse.check(*loss_of(Lower(perceptron(nn.Tanh()))), rng=0)
    (finding,) = report.findings
    assert finding.kind == "precision"
    assert finding.operator == "torch.linear"
    assert "return self.inner(x).float()" in finding.code
    assert 1e-3 < report.rounding < 1


def test_a_kink_at_the_point_is_a_note_and_no_finding():
    report = hesse.check(lambda x: x.abs().sum() + (x**3).sum(), torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))
    assert report.ok
    (note,) = report.notes
    assert note.kind == "not smooth"
    assert note.operator == "Abs"
    assert note.file == __file__
    assert report.curvature.verdict == "not smooth"


def test_a_kink_elsewhere_says_nothing():
    report = hesse.check(lambda x: x.abs().pow(3).sum(), torch.tensor([-1.0, 1.0, 2.0]))
    assert report.ok
    assert not report.notes


def test_differences_in_low_precision_alone_are_said_to_be_too_coarse():
    def only_bfloat16(x):
        if x.dtype is not torch.bfloat16:
            raise TypeError
        return (x**3).sum()

    report = hesse.check(only_bfloat16, torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16), rng=0)
    assert report.curvature.precision is torch.bfloat16
    assert report.curvature.verdict in ("agrees", "too coarse")
    assert report.ok


def test_single_precision_alone_is_compared_with_an_honest_tolerance():
    def only_float32(x):
        if x.dtype is not torch.float32:
            raise TypeError
        return (x**3).sum()

    report = hesse.check(only_float32, torch.tensor([1.0, 2.0, 3.0]), rng=0)
    assert report.ok
    assert report.rounding is None
    assert report.curvature.precision is torch.float32
    assert 1e-3 < report.curvature.tolerance < 1e-2
    assert report.curvature.error < report.curvature.tolerance


def test_an_input_that_does_not_matter_is_a_note():
    report = hesse.check(lambda x, y: (x**3).sum(), (torch.ones(2), torch.ones(3)))
    assert report.ok
    (note,) = report.notes
    assert note.kind == "not connected"
    assert "[1]" in note.sentence


def test_buffers_that_an_evaluation_writes_are_a_note():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    x = torch.randn(8, 3)
    report = hesse.check(
        lambda weight: (torch.func.functional_call(model, {"0.weight": weight}, (x,)) ** 3).sum(), torch.randn(3, 3)
    )
    assert report.ok
    (note,) = report.notes
    assert note.kind == "writes"
    assert "running_mean" in note.sentence


def test_draws_without_consequences_are_a_note():
    def func(x):
        torch.rand(1)
        return (x**3).sum()

    report = hesse.check(func, torch.tensor([1.0, 2.0]))
    assert report.ok
    assert report.draws
    assert report.deterministic
    assert [note.kind for note in report.notes] == ["random"]


def test_a_detached_value_that_is_not_used_says_nothing():
    logged = []

    def func(x):
        loss = (x**4).sum()
        logged.append(loss.detach().item())
        with torch.no_grad():
            logged.append(float(loss.sqrt()))
        return loss

    report = hesse.check(func, torch.tensor([1.0, 2.0]))
    assert report.ok
    # No program can follow what is written into a list.
    assert [note.kind for note in report.notes] == ["not compiled"]


def test_a_stopped_gradient_that_does_not_matter_says_nothing():
    # log-sum-exp is shifted by a constant, whatever it is.
    def func(x):
        shift = x.max().detach()
        return (x - shift).exp().sum().log() + shift

    assert hesse.check(func, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)).ok


@pytest.mark.private
def test_rules_that_were_needed_are_named():
    report = hesse.check(lambda x: torch.nn.functional.hardsigmoid(x.sin()).pow(2).sum(), torch.randn(5))
    assert report.ok
    assert report.rules == ("Hardsigmoid",)
    assert hesse.check(lambda x: x.sin().sum(), torch.randn(5)).rules == ()


@pytest.mark.private
def test_compiled_functions_are_well_since_they_run_eagerly():
    compiled = torch.compile(lambda x: (x**3).sum(), backend="aot_eager")
    assert hesse.check(compiled, torch.ones(3)).ok


@pytest.mark.parametrize("place", ["around", "inside"])
def test_an_asymmetry_that_is_noise_of_the_products_blames_no_backward(place):
    loss, parameters = loss_of(perceptron(nn.Tanh()) if place == "around" else Lower(perceptron(nn.Tanh())))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=place == "around"):
        report = hesse.check(loss, parameters)
    assert [finding.kind for finding in report.findings] == ["precision"]
    assert report.findings[0].sentence.endswith(": autocast computes in bfloat16.") == (place == "around")


def test_noise_is_seen_where_a_function_refuses_double_precision():
    loss, parameters = loss_of(perceptron(nn.Tanh()))

    def refusing(parameters):
        assert all(parameter.dtype == torch.float32 for parameter in parameters.values())
        return loss(parameters)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = hesse.check(refusing, parameters)
    assert "wrong" not in [finding.kind for finding in report.findings]
    told = [entry.sentence for entry in (*report.findings, *report.notes) if entry.kind == "precision"]
    assert any(sentence.endswith(": autocast computes in bfloat16.") for sentence in told)


class Skewed(torch.autograd.Function):
    """x², with a derivative of its gradient that is not symmetric, and exact rounding."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x**2).sum()

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return cotangent * (2 * x + 0.1 * (x.roll(1) - x.roll(1).detach()))


def test_a_product_that_is_linear_and_not_symmetric_is_still_wrong():
    x = torch.linspace(1, 2, 7, dtype=torch.float64)
    assert [finding.kind for finding in hesse.check(Skewed.apply, x).findings] == ["wrong"]
