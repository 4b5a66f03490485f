"""Functions with something wrong in them: each is found out, with the guilty line and operator."""

from __future__ import annotations

import inspect

import pytest
import torch

import hesse

from . import broken

BROKEN = {
    broken.no_derivative: ("no second derivative", "hesse_tests::cube_backward"),
    broken.no_derivative_deep_in_modules: ("no second derivative", "hesse_tests::cube_backward"),
    broken.no_derivative_in_a_checkpoint: ("no second derivative", "hesse_tests::cube_backward"),
    broken.once_differentiable: ("no second derivative", "Once"),
    broken.constant_in_backward: ("wrong", "Constant"),
    broken.constant_cotangent_among_innocents: ("wrong", "Applied"),
    broken.wrong_double_backward: ("wrong", "TwiceBackward"),
    broken.wrong_backward: ("wrong", "Wrong"),
    broken.wrong_backward_of_many: ("wrong", "WrongProduct"),
    broken.wrong_in_pytorch: ("wrong", "torch.as_strided"),
    broken.no_grad: ("cut off", "torch.no_grad"),
    broken.no_grad_around_everything: ("cut off", "torch.no_grad"),
    broken.no_grad_decorator: ("cut off", "torch.no_grad"),
    broken.inference_mode: ("cut off", "torch.inference_mode"),
    broken.detach: ("cut off", "Tensor.detach"),
    broken.data: ("cut off", "Tensor.data"),
    broken.item: ("cut off", "Tensor.item"),
    broken.rebuilt: ("cut off", "Tensor.tolist"),
    broken.inner_gradient: ("cut off", "torch.autograd.grad"),
    broken.detach_beside_innocent_ones: ("cut off", "Tensor.detach"),
    broken.hook: ("cut off", "Tensor.register_hook"),
    broken.through_numpy: ("cut off", "Tensor.numpy"),
    broken.random: ("random", "rand"),
    broken.dropout: ("random", "dropout"),
    broken.counting: ("changing", "mul"),
    broken.changing: ("changing", "add_"),
    broken.rounding: ("zero", "torch.round"),
    broken.sign: ("zero", "torch.sign"),
    broken.argmax: ("zero", "torch.argmax"),
    broken.in_place: ("changed in place", "add_"),
    broken.in_place_late: ("changed in place", "__setitem__"),
    broken.not_a_number: ("not finite", "sqrt"),
    broken.infinite: ("not finite", "reciprocal"),
    broken.gradient_not_finite: ("not finite", "Sqrt"),
    broken.norm_at_zero: ("not finite", "LinalgVectorNorm"),
    broken.half: ("precision", "torch.half"),
    broken.compiled: ("compiled", None),
}


# Where the guilty line is not in the function itself.
ELSEWHERE = {broken.wrong_double_backward: broken.Twice}


def guilty_line(func) -> int:
    lines, first = inspect.getsourcelines(ELSEWHERE.get(func, func))
    (line,) = [first + i for i, text in enumerate(lines) if text.rstrip("\n").endswith(broken.MARK)]
    return line


@pytest.mark.parametrize("func", BROKEN, ids=lambda func: func.__name__)
@pytest.mark.private
@pytest.mark.one_in(3)
def test_the_guilty_line_and_operator_are_named(func):
    torch.manual_seed(0)
    kind, operator = BROKEN[func]
    report = hesse.check(func, broken.POINT, rng=0)
    assert not report.ok
    (finding,) = report.findings
    assert finding.kind == kind
    assert finding.operator == operator
    assert finding.file == broken.__file__
    assert finding.line == guilty_line(func)
    assert finding.code.endswith(broken.MARK.strip())
    assert finding.sentence.endswith(".")
    assert f"{finding.file}:{finding.line}" in str(report)


def test_the_hook_of_a_deep_equilibrium_layer_is_refused_at_what_it_is_on():
    (finding,) = hesse.check(broken.equilibrium, broken.POINT, rng=0).findings
    assert finding.line == guilty_line(broken.equilibrium)
    with pytest.raises(hesse.NoDerivativeError, match="a hook"):
        hesse.vhp(broken.equilibrium, broken.POINT, broken.POINT)
