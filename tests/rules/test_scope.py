"""Rules hold inside of hesse and nowhere else: neither in other threads, nor after an error, nor in plain PyTorch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import hesse
from hesse import functional
from hesse._rules import RULES
from hesse._rules.scope import put
from tests.functional.references import assert_values

REFUSED = "derivative for aten::hardsigmoid_backward is not implemented"


def func(x: Tensor) -> Tensor:
    return (F.hardsigmoid(x) ** 2).sum()


def point() -> Tensor:
    return torch.linspace(-2.0, 2.0, 5, dtype=torch.float64)


def expected(v: Tensor) -> Tensor:
    return v / 18


def assert_plain_pytorch_is_as_ever() -> None:
    """First derivatives of every kind, and the refusal of second ones."""
    x = point().requires_grad_()
    slope = (x / 6 + 0.5).detach() / 3
    gradient = torch.autograd.grad(func(x), x, create_graph=True)[0]
    assert_values(gradient, slope)
    with pytest.raises(RuntimeError, match=REFUSED):
        torch.autograd.grad(gradient.sum(), x)
    with pytest.raises(RuntimeError, match=REFUSED):
        torch.autograd.functional.vhp(func, x, x)
    assert_values(torch.func.grad(func)(x.detach()), slope)
    assert_values(torch.func.vmap(torch.func.grad(func))(x.detach().expand(2, 5)), slope.expand(2, 5))
    with pytest.raises(RuntimeError, match=REFUSED):
        torch.func.grad(lambda x: torch.func.grad(func)(x).sum())(x.detach())


@pytest.mark.private
def test_before_and_after_a_product_plain_pytorch_is_as_ever() -> None:
    assert_plain_pytorch_is_as_ever()
    hesse.vhp(func, point(), point())
    assert_plain_pytorch_is_as_ever()
    hesse.Hessian(func, point()) @ point()
    assert_plain_pytorch_is_as_ever()


def test_after_an_error_in_the_function_plain_pytorch_is_as_ever() -> None:
    def fails(x: Tensor) -> Tensor:
        torch.autograd.grad(func(x), x, create_graph=True)
        raise KeyError("mine")

    for attempt in (
        lambda: hesse.vhp(fails, point(), point()),
        lambda: hesse.Hessian(fails, point()),
        lambda: torch.func.vmap(lambda v: hesse.vhp(fails, v, v)[1])(point()[None]),
    ):
        with pytest.raises(KeyError, match="mine"):
            attempt()
        assert_plain_pytorch_is_as_ever()


def test_after_an_error_in_a_backward_plain_pytorch_is_as_ever() -> None:
    def fails(cotangent: Tensor) -> None:
        raise KeyError("mine")

    def hooked(x: Tensor) -> Tensor:
        y = F.hardsigmoid(x)
        y.register_hook(fails)
        return (y**2).sum()

    with pytest.raises(KeyError, match="mine"):
        hesse.vhp(hooked, point(), point())
    assert_plain_pytorch_is_as_ever()


def test_while_one_thread_is_inside_others_are_in_plain_pytorch() -> None:
    inside, checked = threading.Event(), threading.Event()
    results: list[Tensor] = []

    def waits(x: Tensor) -> Tensor:
        inside.set()
        assert checked.wait(60)
        return func(x)

    thread = threading.Thread(target=lambda: results.append(hesse.vhp(waits, point(), point())[1]))
    thread.start()
    assert inside.wait(60)
    try:
        assert_plain_pytorch_is_as_ever()
    finally:
        checked.set()
        thread.join(60)
    assert_values(results[0], expected(point()))


def test_threads_that_take_products_and_threads_that_do_not_run_side_by_side() -> None:
    failures: list[BaseException] = []

    def repeat(check: Callable[[], None]) -> Callable[[], None]:
        def work() -> None:
            try:
                for _ in range(20):
                    check()
            except BaseException as error:
                failures.append(error)

        return work

    def products() -> None:
        assert_values(hesse.vhp(func, point(), point())[1], expected(point()))
        assert_values(hesse.Hessian(func, point()) @ point(), expected(point()))

    threads = [
        threading.Thread(target=repeat(check)) for check in (products, products, assert_plain_pytorch_is_as_ever)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []


def test_a_product_inside_a_product_leaves_rules_in_force_for_the_outer_one() -> None:
    def nested(x: Tensor) -> Tensor:
        return (hesse.vhp(func, x, x, create_graph=True)[1] * func(x)).sum()

    def closed(x: Tensor) -> Tensor:
        return (x / 18 * (x / 6 + 0.5).pow(2).sum()).sum()

    product = hesse.vhp(nested, point(), point())[1]
    assert_values(product, torch.autograd.functional.vhp(closed, point(), point())[1])
    assert_plain_pytorch_is_as_ever()


@pytest.mark.private
def test_the_state_of_a_thread_is_put_back_to_what_it_was() -> None:
    assert put(False) is False
    hesse.vhp(func, point(), point())
    assert put(False) is False
    held = put(True)
    try:
        hesse.vhp(func, point(), point())
    finally:
        assert put(held) is True


def test_in_no_grad_and_inference_mode_products_are_right() -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert_values(hesse.vhp(func, point(), point())[1], expected(point()))


def test_inside_torchscript_rules_hold() -> None:
    @torch.jit.script
    def scripted(x: Tensor) -> Tensor:
        return (torch.nn.functional.hardsigmoid(x) ** 2).sum()

    for _ in range(4):  # the executor optimizes from the second run on
        assert_values(hesse.vhp(scripted, point(), point())[1], expected(point()))


def test_a_product_can_be_traced() -> None:
    traced = make_fx(lambda x, v: hesse.vhp(func, x, v)[1])(point(), point())
    assert_values(traced(point(), 3 * point()), expected(3 * point()))


def test_the_values_of_the_first_backward_are_pytorchs_own() -> None:
    x = point().requires_grad_()
    gradient = torch.autograd.grad(func(x), x)[0]
    assert torch.equal(hesse.Hessian(func, x).gradient, gradient)


def test_other_operators_are_not_slowed_or_seen() -> None:
    """Every operator without a rule passes the key over: its dispatch table says fallthrough."""
    for name in ("aten::add.Tensor", "aten::mm", "aten::hardsigmoid"):
        table = torch._C._dispatch_dump_table(name)
        line = next(line for line in table.splitlines() if line.startswith("TESTING_ONLY_GenericMode"))
        assert "fallthrough" in line
    assert "fallthrough" not in next(
        line
        for line in torch._C._dispatch_dump_table("aten::hardsigmoid_backward").splitlines()
        if line.startswith("TESTING_ONLY_GenericMode")
    )


class Cube(torch.autograd.Function):
    """A function of a user's own, which a transform dispatches as an operator of higher order."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * cotangent


@pytest.mark.private
def test_operators_that_take_functions_pass_the_key_over() -> None:
    """Those there are, and those that are made later."""
    x, v = point(), point()
    rows = torch.func.vmap(lambda v: hesse.vhp(lambda x: Cube.apply(x).sum(), x, v)[1])(v[None])
    assert_values(rows, (6 * x * v)[None])
    product = hesse.vhp(lambda x: (torch.func.grad(lambda y: Cube.apply(y).sum())(x) ** 2).sum(), x, v)[1]
    assert_values(product, 108 * x**2 * v)

    class Later(torch._ops.HigherOrderOperator):
        def __init__(self) -> None:
            super().__init__("hesse_test_later")

        def __call__(self, x: Tensor) -> Tensor:
            result: Tensor = super().__call__(x)
            return result

    later = Later()
    later.py_impl(torch._C.DispatchKey.Autograd)(lambda x: x**3)
    assert_values(hesse.vhp(lambda x: later(x).sum(), x, v)[1], 6 * x * v)


def test_every_rule_is_of_an_operator_that_this_pytorch_has() -> None:
    for name in RULES:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "TESTING_ONLY_GenericMode")


@pytest.mark.private
@pytest.mark.parametrize(
    "function", [F.hardsigmoid, lambda x: F.layer_norm(x, (5,))], ids=["hardsigmoid", "layer_norm"]
)
def test_forward_mode_goes_through_operators_with_rules(function: Callable[[Tensor], Tensor]) -> None:
    """PyTorch's own formulas of forward mode call these operators from within a transform."""
    x = point()
    forward = functional.jacobian(function, x, strategy="forward-mode", vectorize=True)
    assert_values(forward, functional.jacobian(function, x), rtol=1e-7, atol=1e-8)
    scalar = lambda x: (function(x) ** 3 * x).sum()  # noqa: E731  # a function in one line
    forward = functional.hessian(scalar, x, vectorize=True, outer_jacobian_strategy="forward-mode")
    assert_values(forward, functional.hessian(scalar, x), rtol=1e-7, atol=1e-8)
