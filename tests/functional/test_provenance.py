"""The operator that failed in a derivative, and the line of the user's code that called it."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import hesse
from hesse._autograd.provenance import is_users, locate

from ..underivable import cube

MARK = "# the line"


def double_backward(func, x):
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(func(x), x, create_graph=True)
    torch.autograd.grad(gradient, x, torch.ones_like(gradient))


def marked_line(func) -> int:
    lines, first = inspect.getsourcelines(func)
    (line,) = [first + i for i, text in enumerate(lines) if MARK in text]
    return line


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise ZeroDivisionError("a fault of theirs")


class FailingTwice(torch.autograd.Function):
    """Its backward is fine, and the backward of that fails."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return Failing.apply(grad)


class Segments(torch.nn.Module):
    def forward(self, x):
        return torch.segment_reduce(x, "sum", lengths=torch.tensor([1, 2]))  # the line


def lone(x):
    y = x.sin()
    return (torch.nn.functional.hardsigmoid(y) ** 2).sum()  # the line


def in_a_helper(x):
    def bounded(y):
        return torch.nn.functional.hardsigmoid(y)  # the line

    return bounded(x.sin()).pow(2).sum()


def in_a_checkpoint(x):
    def bounded(y):
        return torch.nn.functional.hardsigmoid(y).pow(2)  # the line

    return checkpoint(bounded, x.sin(), use_reentrant=False).sum()


def in_the_first_derivative(x):
    y = x.sin()
    return torch.special.zeta(y + 2, y + 1).sum()  # the line


def in_a_module(x):
    loss = torch.nn.MultiMarginLoss(p=2)
    return loss(x.sin(), torch.tensor([0, 1, 0]))  # the line


SCRIPTED = torch.jit.script(torch.nn.MultiMarginLoss(p=2))


def in_a_script(x):
    y = x.sin()
    return SCRIPTED(y, torch.tensor([0, 1, 0]))  # the line


def custom_failing(x):
    y = Failing.apply(x)  # the line
    return (y**2).sum()


def custom_failing_twice(x):
    y = FailingTwice.apply(x)  # the line
    return (y**2).sum()


def changed_in_place(x):
    y = x.exp()
    z = y * y  # the line
    y.add_(1)
    return z.sum()


@pytest.mark.parametrize(
    ("func", "operator", "node"),
    [
        (lone, "aten::hardsigmoid_backward", "HardsigmoidBackward0"),
        (in_a_helper, "aten::hardsigmoid_backward", "HardsigmoidBackward0"),
        (in_a_checkpoint, "aten::hardsigmoid_backward", "HardsigmoidBackward0"),
        (in_the_first_derivative, "aten::zeta", "SpecialZetaBackward0"),
        (in_a_module, "aten::multi_margin_loss_backward", "MultiMarginLossBackward0"),
        (in_a_script, "aten::multi_margin_loss_backward", "MultiMarginLossBackward0"),
        (custom_failing, "Failing", "FailingBackward"),
        (custom_failing_twice, "FailingTwice", "FailingTwiceBackward"),
        (changed_in_place, "Mul", "MulBackward0"),
    ],
)
@pytest.mark.private
def test_the_operator_and_the_users_line_are_found(func, operator, node):
    x = torch.linspace(0.1, 1, 9, dtype=torch.float64).reshape(3, 3)
    with pytest.raises(Exception, match=r".") as raised:
        double_backward(func, x)
    failure = locate(lambda: double_backward(func, x), func, x)
    assert failure is not None
    assert (failure.operator, failure.node) == (operator, node)
    assert failure.frame.file == __file__
    assert failure.frame.line == marked_line(func)
    assert MARK in failure.frame.code
    assert type(failure.error) is raised.type
    # The mode adds a hint of its own to the end of some.
    assert str(failure.error)[:60] == str(raised.value)[:60]


def test_the_callers_of_the_line_follow_from_inside_out():
    model = Segments()

    def func(x):
        return model(x.sin()).pow(2).sum()  # the line

    x = torch.ones(3)
    failure = locate(lambda: double_backward(func, x), func, x)
    assert [frame.function for frame in failure.frames][:2] == ["forward", "func"]
    assert [frame.line for frame in failure.frames][:2] == [marked_line(Segments.forward), marked_line(func)]


def without_a_rule(x):
    y = x.sin()
    return cube(y).sum()  # the line


def test_the_products_of_hesse_are_explained_too():
    x = torch.eye(3)
    for compute in (
        lambda: hesse.vhp(without_a_rule, x, x),
        lambda: hesse.hvp(without_a_rule, x, x),
        lambda: hesse.Hessian(without_a_rule, x) @ x,
        lambda: hesse.Jacobian(without_a_rule, x) @ x,
    ):
        failure = locate(compute, without_a_rule, x)
        assert failure.operator == "hesse_tests::cube_backward"
        assert failure.frame.line == marked_line(without_a_rule)


def test_an_operator_is_found_behind_another_error_made_of_it():
    def compute():
        try:
            double_backward(without_a_rule, torch.eye(3))
        except RuntimeError as error:
            raise ValueError("one sentence of ours") from error

    failure = locate(compute, without_a_rule, torch.eye(3))
    assert failure.operator == "hesse_tests::cube_backward"


def test_an_error_that_is_its_own_cause_is_read_once():
    def compute():
        try:
            double_backward(without_a_rule, torch.eye(3))
        except RuntimeError as error:
            raise error from error

    failure = locate(compute, without_a_rule, torch.eye(3))
    assert failure.operator == "hesse_tests::cube_backward"


def test_what_does_not_fail_or_not_in_a_backward_is_none():
    def fails_forward(x):
        raise ZeroDivisionError

    x = torch.ones(2)
    assert locate(lambda: double_backward(lambda x: x.pow(3).sum(), x), torch.sum, x) is None
    assert locate(lambda: double_backward(fails_forward, x), fails_forward, x) is None


def test_a_compute_that_explains_itself_is_run_once_more_only():
    explained = []

    def explaining():
        try:
            double_backward(lone, torch.eye(3))
        except RuntimeError:
            explained.append(locate(explaining, lone, torch.eye(3)))
            raise

    with pytest.raises(RuntimeError):
        explaining()
    inner, outer = explained
    assert inner is None
    assert outer.frame.line == marked_line(lone)


def test_nothing_of_the_mode_is_left_and_no_warning_escapes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        locate(lambda: double_backward(lone, torch.eye(3)), lone, torch.eye(3))
    assert not torch.is_anomaly_enabled()
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        locate(lambda: double_backward(lone, torch.eye(3)), lone, torch.eye(3))
        assert torch.is_anomaly_enabled()


def test_files_are_the_users_unless_they_are_torchs_or_hesses_or_pythons():
    import functools

    assert is_users(__file__)
    assert is_users(pytest.__file__)
    assert is_users("<stdin>")
    assert is_users("problem.py")
    for theirs in (torch.nn.functional.__file__, hesse.__file__, functools.__file__, "<eval_with_key>.0"):
        assert not is_users(theirs)
