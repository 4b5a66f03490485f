"""An operator that neither PyTorch nor a rule can differentiate: one sentence names it, its line, and the remedy."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hesse
from hesse import functional
from hesse._rules import RULES

from .judge import refusal

OPERATOR = "aten::_fake_quantize_learnable_per_tensor_affine_backward"
"""A step function with a made-up gradient: nobody will want its second derivative."""

SCALE, ZERO = torch.tensor([0.1]), torch.tensor([0.0])


def steps(x: Tensor) -> Tensor:
    return torch._fake_quantize_learnable_per_tensor_affine(x, SCALE, ZERO, -128, 127, 1.0)


def func(x: Tensor) -> Tensor:
    return (steps(x) ** 2).sum()


LINE = f"{__file__}:{inspect.getsourcelines(steps)[1] + 1}"


def second_derivatives(x: Tensor) -> dict[str, Callable[[], object]]:
    return {
        "vhp": lambda: hesse.vhp(func, x, x),
        "hvp": lambda: hesse.hvp(func, x, x),
        "hessian": lambda: functional.hessian(func, x),
        "jvp": lambda: functional.jvp(lambda x: steps(x * x), x, x),
        "Hessian": lambda: hesse.Hessian(func, x) @ x,
        "Jacobian": lambda: hesse.Jacobian(steps, x) @ x,
    }


@pytest.mark.parametrize("name", second_derivatives(torch.ones(1)))
def test_the_error_names_the_operator_the_line_and_the_remedy(name: str) -> None:
    assert OPERATOR not in RULES
    with pytest.raises(hesse.NoDerivativeError) as caught:
        second_derivatives(torch.linspace(0.2, 0.9, 3))[name]()
    assert str(caught.value) == (
        f"The function given to {name} cannot be differentiated at {LINE}, in `return"
        " torch._fake_quantize_learnable_per_tensor_affine(x, SCALE, ZERO, -128, 127, 1.0)`: derivative for"
        f" {OPERATOR} is not implemented, neither by PyTorch nor as a rule of hesse. Write that in other operations,"
        " or give the operator a rule (docs/rules.md)."
    )
    assert (caught.value.operator, caught.value.place) == (OPERATOR, LINE)


def test_the_error_is_of_pytorchs_kind_and_keeps_pytorchs_own() -> None:
    x = torch.linspace(0.2, 0.9, 3)
    with pytest.raises(RuntimeError, match=f"derivative for {OPERATOR} is not implemented") as theirs:
        torch.autograd.functional.vhp(func, x, x)
    with pytest.raises(NotImplementedError) as ours:
        hesse.vhp(func, x, x)
    assert str(ours.value.__cause__) == str(theirs.value)


def test_what_the_function_itself_raises_passes_through() -> None:
    """Its own double backward is its own affair."""

    def fails(x: Tensor) -> Tensor:
        gradient = torch.autograd.grad(func(x), x, create_graph=True)[0]
        return torch.autograd.grad(gradient.sum(), x, create_graph=True)[0].sum()

    with pytest.raises(RuntimeError) as caught:
        hesse.vhp(fails, torch.linspace(0.2, 0.9, 3), torch.ones(3))
    assert str(caught.value) == f"derivative for {OPERATOR} is not implemented"
    assert not isinstance(caught.value, hesse.NoDerivativeError)


def test_a_product_inside_the_function_is_named_for_itself() -> None:
    def nested(x: Tensor) -> Tensor:
        return hesse.hvp(func, x, x, create_graph=True)[1].sum()

    with pytest.raises(hesse.NoDerivativeError, match="The function given to hvp cannot be differentiated at"):
        hesse.vhp(nested, torch.linspace(0.2, 0.9, 3), torch.ones(3))


def test_inside_a_transform_the_error_names_the_operator() -> None:
    with pytest.raises(hesse.NoDerivativeError, match=f"cannot be differentiated: derivative for {OPERATOR}"):
        torch.func.vmap(lambda v: hesse.vhp(func, torch.linspace(0.2, 0.9, 3), v)[1])(torch.eye(3))


def test_the_search_for_the_line_draws_no_random_numbers_and_changes_no_buffer() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout())
    x = torch.rand(4, 3)

    def draws(x: Tensor) -> Tensor:
        return func(model(x))

    def state() -> list[Tensor]:
        return [torch.get_rng_state(), *[buffer.clone() for buffer in model.buffers()]]

    torch.manual_seed(0)
    before = [buffer.clone() for buffer in model.buffers()]
    draws(x)
    once = state()
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)
    torch.manual_seed(0)
    with pytest.raises(hesse.NoDerivativeError):
        hesse.vhp(draws, x, x)
    assert all(torch.equal(a, b) for a, b in zip(state(), once, strict=True))


@torch.library.custom_op("hesse_tests::cube_backward", mutates_args=())
def cube_backward(cotangent: Tensor, x: Tensor) -> Tensor:
    return 3 * cotangent * x**2


@torch.library.custom_op("hesse_tests::cube", mutates_args=())
def cube(x: Tensor) -> Tensor:
    return x**3


cube.register_autograd(
    lambda ctx, cotangent: cube_backward(cotangent, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)
TWO = torch.tensor([2.0, 2.0])

# Each on a line of its own.
WAYS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor, str]] = {
    "gammainc": (
        lambda x: torch.special.gammainc(x, TWO).sum(),
        torch.tensor([1.5, 2.5]),
        "aten::igamma",
    ),
    "a custom operator": (
        lambda x: cube(x).sum(),
        torch.tensor([1.5, 2.5]),
        "hesse_tests::cube_backward",
    ),
    "CrossMapLRN2d": (
        lambda x: torch.nn.CrossMapLRN2d(3)(x).sum(),
        torch.ones(1, 4, 2, 2),
        "aten::mul",
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_whatever_way_pytorch_says_it_the_operator_and_the_line_are_named(name: str) -> None:
    func, x, operator = WAYS[name]
    line = f"{__file__}:{func.__code__.co_firstlineno}"
    for call in (lambda: hesse.vhp(func, x, torch.ones_like(x)), lambda: hesse.Hessian(func, x) @ torch.ones_like(x)):
        with pytest.raises(hesse.NoDerivativeError) as caught:
            call()
        assert (caught.value.operator, caught.value.place) == (operator, line)


@pytest.mark.filterwarnings("ignore")
def test_nested_tensors_without_a_second_derivative_are_refused_by_line() -> None:
    offsets = torch.tensor([0, 1, 2])

    def jagged(x: Tensor) -> Tensor:
        nested = torch.nested.nested_tensor_from_jagged(x, offsets)
        return (nested * nested).sum()

    x = torch.ones(2, 2)
    theirs = refusal(jagged, (x,))
    if not theirs:
        pytest.skip("this release has a second derivative there")
    with pytest.raises(hesse.NoDerivativeError) as caught:
        hesse.vhp(jagged, x, x)
    assert caught.value.operator.startswith("aten::")
    assert str(caught.value.place).startswith(__file__)


class Potential(torch.nn.Module):
    """An energy and its force, which has a graph in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x if x.requires_grad else x.clone().requires_grad_()
        energy = torch.tanh(self.layer(x)).sum()
        return energy, torch.autograd.grad(energy, x, create_graph=self.training)[0]


def test_a_model_that_frees_its_own_graph_is_told_how_not_to() -> None:
    potential, x = Potential().eval(), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for call in (
        lambda: hesse.vhp(lambda x: potential(x)[0], x, x),
        lambda: hesse.Hessian(lambda x: potential(x)[0], x) @ x,
        lambda: hesse.LossHessian(potential, lambda m, x: m(x)[0], x, reduction="sum") @ torch.ones(4),
    ):
        with pytest.raises(hesse.NoDerivativeError, match="frees its own graph"):
            call()
    potential.train()
    weight, bias = [parameter.detach() for parameter in potential.parameters()]
    same = lambda x: torch.tanh(x @ weight[0] + bias).sum()  # noqa: E731  # a function in one line
    expected = torch.autograd.functional.vhp(same, x, x)[1]
    torch.testing.assert_close(hesse.vhp(lambda x: potential(x)[0], x, x)[1], expected)


def by_sparse(x: Tensor) -> Tensor:
    return torch.sparse.mm(x.to_sparse(), x.sin()).square().sum()


def by_halves(x: Tensor) -> Tensor:
    return x.chalf().abs().sin().sum()


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize(("func", "line"), [(by_sparse, "torch.sparse.mm"), (by_halves, "chalf")])
def test_what_fails_within_pytorchs_derivative_names_its_line(func: Callable[[Tensor], Tensor], line: str) -> None:
    """PyTorch's error names a kernel, or nothing."""
    x = torch.eye(2)
    with pytest.raises(hesse.NoDerivativeError, match=f"at .*{line}.*: PyTorch has no derivative there") as caught:
        hesse.hvp(func, x, x)
    assert "Backward" in caught.value.operator
