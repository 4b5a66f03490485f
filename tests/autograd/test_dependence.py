"""Functions that do not use what they are given: operators say so, constants pass, and the contract gives zeros."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import hesse
from hesse import functional

pytestmark = pytest.mark.usefixtures("uncompiled")

X = torch.linspace(-1, 1, 12).reshape(4, 3)
Y = torch.tensor([0, 1, 1, 0])
LOSS = nn.CrossEntropyLoss()
ENGINES = pytest.mark.parametrize("engine", ["tape", "compiled"])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def uses_the_model() -> tuple[Callable[..., Tensor], Any]:
    model = network()
    return (lambda *parameters: LOSS(model(X), Y)), tuple(model.parameters())


def writes_into_the_model() -> tuple[Callable[..., Tensor], Any]:
    model = network()

    def func(vector: Tensor) -> Tensor:
        vector_to_parameters(vector, model.parameters())
        return LOSS(model(X), Y)

    return func, parameters_to_vector(model.parameters()).detach()


def writes_data() -> tuple[Callable[..., Tensor], Any]:
    model = network()

    def func(weight: Tensor) -> Tensor:
        model[0].weight.data = weight
        return LOSS(model(X), Y)

    return func, torch.ones(4, 3)


def loads_a_state() -> tuple[Callable[..., Tensor], Any]:
    model = network()

    def func(state: dict[str, Tensor]) -> Tensor:
        model.load_state_dict(state)
        return LOSS(model(X), Y)

    return func, {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@ENGINES
@pytest.mark.parametrize("make", [uses_the_model, writes_into_the_model, writes_data, loads_a_state])
@pytest.mark.one_in(3)
def test_a_function_that_uses_other_leaves_is_refused_with_the_remedy(make: Callable[[], Any], engine: Any) -> None:
    func, inputs = make()
    sentence = (
        "was given a function whose {} depends on none of its variables, but on the captured tensor '.*' and 3 more"
        r" with requires_grad=True, .* Compute with the arguments, as torch\.func\.functional_call does for a model"
    )
    with pytest.raises(RuntimeError, match="^Hessian " + sentence.format("value")):
        hesse.Hessian(func, inputs, engine=engine)
    with pytest.raises(RuntimeError, match="^Jacobian " + sentence.format("output")):
        hesse.Jacobian(func, inputs, engine=engine)


@pytest.mark.parametrize(
    "given", [lambda p: p, Tensor.detach, lambda p: p.detach().clone()], ids=["it", "alias", "copy"]
)
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_captured_tensor_in_the_place_of_one_argument_is_refused(
    given: Callable[[Tensor], Tensor], create_graph: bool
) -> None:
    model = network()
    inputs = {name: given(parameter) for name, parameter in model.named_parameters()}

    def func(parameters: dict[str, Tensor]) -> Tensor:
        rest = {name: parameter for name, parameter in parameters.items() if name != "0.weight"}
        return LOSS(torch.func.functional_call(model, rest, (X,)), Y)

    with pytest.raises(RuntimeError, match=r"uses the captured tensor 'model\.0\.weight' itself and not the argument"):
        hesse.Hessian(func, inputs, create_graph=create_graph)
    with pytest.raises(RuntimeError, match=r"uses the captured tensor 'model\.0\.weight' itself and not the argument"):
        hesse.Jacobian(func, inputs, create_graph=create_graph)


class Scale(torch.autograd.Function):
    """Twice its input; it keeps a number under the name that PyTorch has for the tensor of a leaf."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.variable = 2.0
        return ctx.variable * x

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return ctx.variable * cotangent


def test_what_a_custom_function_keeps_is_no_variable() -> None:
    x, unused = torch.tensor([1.0, 2.0]), torch.ones(1)
    J = hesse.Jacobian(lambda x, unused: Scale.apply(x), (x, unused))
    assert torch.equal(J @ torch.tensor([3.0, 4.0, 5.0]), torch.tensor([6.0, 8.0]))


class Quiet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Inferring(Quiet):
    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            y = self.linear(x)
        return y.clone()


class Numbers(Quiet):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor(self.linear(x).tolist())


class Detaching(Quiet):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).detach()


CULPRITS = {
    Quiet: "torch.no_grad is on",
    Inferring: "torch.inference_mode is on",
    Numbers: "Tensor.tolist leaves PyTorch",
    Detaching: "Tensor.detach cuts the output off",
}


@ENGINES
@pytest.mark.parametrize("operator", ["LossHessian", "GaussNewton", "Fisher", "EmpiricalFisher"])
@pytest.mark.parametrize("model", CULPRITS)
def test_a_model_that_cuts_off_its_parameters_is_refused_with_the_line(
    model: type[nn.Module], operator: str, engine: Any
) -> None:
    subject = "a loss" if operator == "LossHessian" else "a prediction"
    with pytest.raises(RuntimeError) as caught:
        getattr(hesse, operator)(model(), LOSS, (X, Y), engine=engine)
    message = str(caught.value)
    assert message.startswith(f"{operator} was given {subject} that is cut off from its variables at {__file__}:")
    assert CULPRITS[model] in message


@pytest.mark.parametrize("model", CULPRITS)
def test_a_function_that_cuts_off_its_inputs_is_refused_with_the_line(model: type[nn.Module]) -> None:
    net = model()

    def func(x: Tensor) -> Tensor:
        return net(x).square().sum()

    for operator in (hesse.Hessian, hesse.Jacobian):
        with pytest.raises(RuntimeError, match=CULPRITS[model]):
            operator(func, X)
    report = hesse.check(func, X, rng=0)
    (finding,) = report.findings
    assert finding.kind == "cut off"
    assert finding.remedy


@ENGINES
def test_a_tensor_that_gets_the_data_of_an_input_is_told_with_the_line(engine: Any) -> None:
    def func(x: Tensor) -> Tensor:
        held = torch.empty(3)
        held.data = x
        return (held**3).sum()

    with pytest.raises(RuntimeError, match=r"cut off from its variables at .*held\.data = x.*Tensor\.data cuts"):
        hesse.Hessian(func, torch.ones(3), engine=engine)
    assert not hesse.vhp(func, torch.ones(3), torch.ones(3))[1].any()


def test_the_search_for_the_cut_leaves_no_trace() -> None:
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x + torch.rand(3))

    model = Drawing()

    def state() -> list[Tensor]:
        return [torch.get_rng_state(), *[buffer.clone() for buffer in model.buffers()]]

    torch.manual_seed(0)
    before = state()
    model(X)
    once = state()
    torch.set_rng_state(before[0])
    for buffer, value in zip(model.buffers(), before[1:], strict=True):
        buffer.copy_(value)
    with pytest.raises(RuntimeError, match=r"torch\.no_grad is on"):
        hesse.Hessian(lambda x: model(x).square().sum(), X)
    assert all(torch.equal(a, b) for a, b in zip(state(), once, strict=True))


CONSTANTS: dict[str, Callable[[Tensor], Tensor]] = {
    "a constant": lambda x: torch.ones(()),
    "a shape": lambda x: torch.tensor(float(len(x))),
    "linear": lambda x: x.sum(),
    "a step": lambda x: x.sign().sum(),
    "a count": lambda x: (x > 0).sum() * 1.0,
    "an index": lambda x: x.argmax() * 1.0,
    "a step of what is detached": lambda x: x.detach().round().sum(),
    "a count without gradients": torch.no_grad()(lambda x: (x > 0).sum() * 1.0),
    "a branch": lambda x: torch.ones(()) if x.sum() > 0 else torch.zeros(()),
}


@pytest.mark.parametrize("engine", ["tape", "auto"])
@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_pass(name: str, engine: Any) -> None:
    func = CONSTANTS[name]
    assert not (hesse.Hessian(func, X, engine=engine) @ X).any()
    jacobian = hesse.Jacobian(func, X, engine=engine)
    assert jacobian @ X == (X.sum() if name == "linear" else 0)


def test_what_is_captured_may_require_gradients() -> None:
    weight = torch.ones(4, 3, requires_grad=True)
    H = hesse.Hessian(lambda x, unused: (weight * x**2).sum(), (X, X))
    product, other = H @ (X, X)
    assert torch.equal(product, 2 * X)
    assert not other.any()
    J = hesse.Jacobian(lambda x: (x, 2 * weight), X)
    assert torch.equal((J @ X)[0], X)
    assert not (J @ X)[1].any()


def test_a_tensor_given_twice_may_be_used_once() -> None:
    for create_graph in (False, True):
        x = X.clone().requires_grad_()
        H = hesse.Hessian(lambda x, same: (x**3).sum(), (x, x), create_graph=create_graph)
        product, other = H @ (X, X)
        torch.testing.assert_close(product.detach(), 6 * X**2)
        assert not other.any()


def test_an_empty_input_connects_to_nothing() -> None:
    model = network()
    assert (hesse.Hessian(lambda x: LOSS(model(X), Y), torch.ones(0)) @ torch.ones(0)).shape == (0,)


def test_parameters_that_do_not_matter_have_no_curvature() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    for operator in (hesse.LossHessian, hesse.GaussNewton, hesse.Fisher, hesse.EmpiricalFisher):
        matrix = operator(Partly(), LOSS, (X, Y)).to_dense()
        assert matrix[:8, :8].any()
        assert not matrix[8:].any()
        assert not matrix[:, 8:].any()


@pytest.mark.parametrize("make", [uses_the_model, writes_into_the_model, writes_data])
def test_the_contract_gives_zeros(make: Callable[[], Any]) -> None:
    func, inputs = make()
    vectors = inputs if isinstance(inputs, Tensor) else tuple([entry.detach() for entry in inputs])
    for product in (
        hesse.vhp(func, inputs, vectors)[1],
        hesse.hvp(func, inputs, vectors)[1],
        functional.vjp(func, inputs)[1],
    ):
        entries = product if isinstance(product, tuple) else (product,)
        assert not any(entry.any() for entry in entries)
    with pytest.raises(RuntimeError, match="independent of input 0"):
        hesse.vhp(func, inputs, vectors, strict=True)


@pytest.mark.parametrize("make", [uses_the_model, writes_into_the_model, writes_data])
def test_check_says_so_with_the_remedy(make: Callable[[], Any]) -> None:
    func, inputs = make()
    (finding,) = hesse.check(func, inputs, rng=0).findings
    assert finding.kind == "not connected"
    assert "depends on none of its variables, but on the captured tensor" in finding.sentence
    assert "functional_call" in finding.remedy


def test_the_line_is_that_of_the_function() -> None:
    def func(x: Tensor) -> Tensor:
        with torch.no_grad():
            y = x**3
        return y.sum()

    line = inspect.getsourcelines(func)[1] + 1
    with pytest.raises(RuntimeError, match=f"at {__file__}:{line}, in `with torch.no_grad"):
        hesse.Hessian(func, X)


def test_a_constant_by_its_shape_passes_and_a_value_that_fills_one_does_not() -> None:
    x = torch.ones(3)
    assert not hesse.Hessian(lambda x: torch.zeros_like(x).sum(), x).to_dense().any()
    with pytest.raises(RuntimeError, match=r"cut off from its variables.*Tensor\.item leaves PyTorch"):
        hesse.Hessian(lambda x: torch.full_like(x, x.sum().item()).sum(), x)
