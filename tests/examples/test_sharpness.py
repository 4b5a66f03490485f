"""The example of sharpness along training: one program, and each eigenvalue that of the tape's Hessian."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import hesse
from hesse._linearize.program.backends import EAGER
from tests.linearize import programs

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def sharpness(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location("sharpness_example", EXAMPLES / "sharpness.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("digits", None)


@pytest.mark.exhaustive
def test_three_steps_take_one_program_and_agree_with_the_tape(sharpness):
    # Captured, and not compiled, which tests of the engine see to.
    with programs.running(EAGER):
        history, H = sharpness.sharpness_along_training(steps=3)
    explanation = H.explain()
    assert (explanation.engine, explanation.programs) == ("compiled", 1)

    # The same three steps by hand.
    images, labels = sharpness.data()
    torch.manual_seed(0)
    net = sharpness.network()
    for value, top, _ in history:
        parameters = dict(net.named_parameters())
        tape = hesse.Hessian(
            lambda p: torch.nn.functional.cross_entropy(torch.func.functional_call(net, p, images), labels), parameters
        )
        assert value == pytest.approx(tape.value.item(), rel=1e-5)
        assert top == pytest.approx(hesse.eigsh(tape, k=1, which="LA", tol=1e-5, rng=0).values[0].item(), rel=2e-3)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter -= sharpness.LEARNING_RATE * tape.gradient[name]
