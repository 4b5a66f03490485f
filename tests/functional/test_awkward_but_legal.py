"""What programs legally do and derivatives stumble over: a product is exact, or refused in a clear sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops import scan, while_loop
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

import hesse
from hesse._base.errors import NoDerivativeError
from hesse._rules import recurrent

from .references import DOUBLE, assert_values, dense_product

Func = Callable[[Tensor], Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def assert_products_are(func: Func, same: Func, x: Tensor, **tolerances: float) -> None:
    """The products of ``func`` are those of ``same``, by differences of its gradient."""
    v = draw(*x.shape, seed=1)
    (expected,) = dense_product(same, (x,), (v,))
    tolerances = tolerances or {"rtol": 1e-6, "atol": 1e-7}
    for product in (hesse.vhp(func, x, v)[1], hesse.hvp(func, x, v)[1], hesse.Hessian(func, x) @ v):
        assert_values(product.double(), expected, **tolerances)


def cube(x: Tensor) -> Tensor:
    return (x.sin() * x**3).sum()


# Autograd's own machinery


@pytest.mark.private
def test_zeros_are_tensors_that_can_be_read_and_changed() -> None:
    """The derivative of a sign is a tensor without memory to autograd."""
    absolute, x, v = lambda x: x.abs().sum(), draw(3), draw(3, seed=1)  # a function in one line
    for product in (
        hesse.vhp(absolute, x, v)[1],
        hesse.vhp(absolute, x, v, create_graph=True)[1],
        hesse.hvp(absolute, x, v)[1],
        hesse.Hessian(absolute, x) @ v,
        (hesse.Hessian(lambda x, y: x.abs().sum() + (y**2).sum(), (x, v)) @ (v, v))[0],
        hesse.Jacobian(torch.sgn, x).T @ v,
        hesse.func.hvp(absolute)(x, v),
        hesse.func.grad(lambda x: x.sgn().sum())(x),
        hesse.functional.vjp(torch.sgn, x, v)[1],
    ):
        assert not product.detach().numpy().any()
        assert product.detach().add_(1).tolist() == [1.0, 1.0, 1.0]


def test_reentrant_checkpoints_are_refused_with_the_remedy() -> None:
    for product in (hesse.vhp, hesse.hvp, lambda func, x, v: hesse.Hessian(func, x)):
        with pytest.raises(RuntimeError, match="use_reentrant=False"):
            product(lambda x: checkpoint(cube, x, use_reentrant=True), draw(3), draw(3))


class MarkedCube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * cotangent


@pytest.mark.parametrize("behind", [lambda y: y, torch.sin], ids=["nothing", "a sine"])
def test_functions_marked_once_differentiable_are_refused_by_name(behind: Func) -> None:
    for product in (hesse.vhp, hesse.hvp, lambda func, x, v: hesse.Hessian(func, x)):
        with pytest.raises(NoDerivativeError, match="Function MarkedCube is marked once_differentiable"):
            product(lambda x: behind(MarkedCube.apply(x)).sum(), draw(3), draw(3))


def test_functions_marked_once_differentiable_of_constants_do_no_harm() -> None:
    constant = draw(3, seed=2).requires_grad_()
    assert_products_are(
        lambda x: (MarkedCube.apply(constant) * x**2).sum(), lambda x: (constant**3 * x**2).sum(), draw(3)
    )


class NewCube(torch.autograd.Function):
    """In the new style, with a context set up apart."""

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


def test_functions_in_the_new_style_are_exact() -> None:
    assert_products_are(lambda x: (NewCube.apply(x) * x).sum(), lambda x: (x**4).sum(), draw(3))


def test_hooks_on_tensors_and_modules_run() -> None:
    layer = nn.Linear(3, 2, dtype=DOUBLE)
    layer.register_full_backward_hook(lambda module, inward, outward: (2 * inward[0],))

    def func(x: Tensor) -> Tensor:
        y = layer(x.sin())
        y.register_hook(lambda cotangent: cotangent / 2)
        return (y**3).sum()

    assert_products_are(func, lambda x: (F.linear(x.sin(), layer.weight, layer.bias) ** 3).sum(), draw(2, 3))


def test_operations_in_place_are_exact() -> None:
    def func(x: Tensor) -> Tensor:
        y = x * 1
        y.sin_()
        y.mul_(x)
        y[0] = y[1] * 2
        y[1:3].add_(x[:2])
        y[y > 0.2] *= 3
        return (y**2).sum()

    def same(x: Tensor) -> Tensor:
        y = x.sin() * x
        y = torch.cat((y[1:2] * 2, y[1:3] + x[:2], y[3:]))
        return (torch.where(y > 0.2, 3 * y, y) ** 2).sum()

    assert_products_are(func, same, draw(5))


# Operators of the user's


@torch.library.custom_op("hesse_tests::cube_alone", mutates_args=())
def cube_alone(x: Tensor) -> Tensor:
    return x**3


@torch.library.custom_op("hesse_tests::cube_with_gradient", mutates_args=())
def cube_with_gradient(x: Tensor) -> Tensor:
    return x**3


cube_with_gradient.register_autograd(
    lambda ctx, cotangent: 3 * ctx.saved_tensors[0] ** 2 * cotangent,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@torch.library.custom_op("hesse_tests::slope_alone", mutates_args=())
def slope_alone(x: Tensor, cotangent: Tensor) -> Tensor:
    return 3 * x**2 * cotangent


@torch.library.custom_op("hesse_tests::cube_with_an_opaque_gradient", mutates_args=())
def cube_with_an_opaque_gradient(x: Tensor) -> Tensor:
    return x**3


cube_with_an_opaque_gradient.register_autograd(
    lambda ctx, cotangent: slope_alone(ctx.saved_tensors[0], cotangent),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def test_a_custom_operator_with_a_differentiable_gradient_is_exact() -> None:
    assert_products_are(lambda x: (cube_with_gradient(x) * x).sum(), lambda x: (x**4).sum(), draw(3))


@pytest.mark.parametrize("missing", ["cube_alone", "slope_alone"])
def test_a_custom_operator_without_a_derivative_is_refused_by_name(missing: str) -> None:
    operator = {"cube_alone": cube_alone, "slope_alone": cube_with_an_opaque_gradient}[missing]
    for func in (lambda x: operator(x).sum(), lambda x: (operator(x) * x).sum()):
        for product in (hesse.vhp, hesse.hvp, lambda func, x, v: hesse.Hessian(func, x) @ v):
            with pytest.raises(RuntimeError, match=f"{missing}.*no autograd formula was registered"):
                product(func, draw(3), draw(3))


# Control flow in operators


CONTROL_FLOW: dict[str, tuple[Func, Func]] = {
    "cond": (
        lambda x: torch.cond(x.sum() > 0, lambda x: (x**3).sum(), lambda x: (x**4).sum(), (x,)),
        lambda x: (x**3).sum() if x.sum() > 0 else (x**4).sum(),
    ),
    "while_loop": (
        lambda x: while_loop(lambda i, y: i < 2, lambda i, y: (i + 1, y.sin() * y), (torch.tensor(0), x))[1].sum(),
        lambda x: ((x.sin() * x).sin() * x.sin() * x).sum(),
    ),
    "scan": (
        lambda x: (scan(lambda c, y: (c * y.sin(), c * y), torch.ones((), dtype=DOUBLE), x)[1] ** 2).sum(),
        lambda x: ((torch.cat((torch.ones(1, dtype=DOUBLE), x[:-1].sin().cumprod(0))) * x) ** 2).sum(),
    ),
}


@pytest.mark.parametrize("operator", CONTROL_FLOW)
@pytest.mark.private
def test_control_flow_in_operators_is_exact(operator: str) -> None:
    assert_products_are(*CONTROL_FLOW[operator], draw(3))
    assert_products_are(*CONTROL_FLOW[operator], -draw(3))


@pytest.mark.parametrize("operator", ["cond", "while_loop"])
@pytest.mark.one_in(2)
def test_control_flow_in_operators_has_no_second_derivative_in_pytorch(operator: str) -> None:
    func, same = CONTROL_FLOW[operator]
    x = draw(3)
    theirs = torch.autograd.functional.vhp(func, x, x)[1]
    assert not torch.allclose(theirs, torch.autograd.functional.vhp(same, x, x)[1])


# Layers and modes


def test_batch_norm_in_training_is_exact_and_counts_one_evaluation() -> None:
    layer = nn.BatchNorm1d(3, dtype=DOUBLE)

    def func(x: Tensor) -> Tensor:
        return (layer(x).sin() * torch.arange(1.0, 13, dtype=DOUBLE).reshape(4, 3)).sum()

    same = lambda x: (  # noqa: E731  # a function in one line
        ((x - x.mean(0)) / (x.var(0, correction=0) + layer.eps).sqrt()).sin()
        * torch.arange(1.0, 13, dtype=DOUBLE).reshape(4, 3)
    ).sum()
    hesse.vhp(func, draw(4, 3), draw(4, 3))
    assert layer.num_batches_tracked == 1
    assert_products_are(func, same, draw(4, 3))


def test_autocast_multiplies_in_low_precision_and_is_right_to_it() -> None:
    def func(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return (x.float() @ x.float()).float().square().sum().double()

    assert_products_are(func, lambda x: (x @ x).square().sum(), draw(3, 3), rtol=0.02, atol=0.3)


RECURRENT = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


@pytest.mark.parametrize("in_place_of_cudnn", [False, True], ids=["kernel", "in place of cuDNN's"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True, "num_layers": 2}, {"bias": False, "dropout": 0.5}], ids=str
)
@pytest.mark.parametrize("kind", [*RECURRENT, "RNN of relu", "LSTM with projections"])
@pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning")
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.one_in(11)
def test_recurrent_layers_in_float32_are_those_in_float64(
    kind: str, options: dict[str, Any], packed: bool, in_place_of_cudnn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch takes oneDNN's LSTM in float32. cuDNN cannot be run here, but what takes its place can."""
    monkeypatch.setattr(recurrent, "by_cudnn", lambda entry: in_place_of_cudnn)
    kind, _, more = kind.partition(" ")
    options = options | {"of relu": {"nonlinearity": "relu"}, "with projections": {"proj_size": 2}, "": {}}[more]
    torch.manual_seed(0)
    layer = RECURRENT[kind](3, 4, **options)
    wide = RECURRENT[kind](3, 4, **options).double()
    wide.load_state_dict(layer.state_dict())

    def through(layer: nn.Module) -> Callable[..., Tensor]:
        def func(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            if packed:
                x = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3]))
            outputs, state = torch.func.functional_call(layer, parameters, (x,))
            values = outputs.data if packed else outputs
            return (values**2).sum().sin() + sum((entry**3).sum() for entry in (state if kind == "LSTM" else [state]))

        return func

    point = dict(layer.named_parameters()), draw(5, 2, 3).float()
    vector = {name: torch.randn_like(entry) for name, entry in point[0].items()}, draw(5, 2, 3, seed=1).float()
    widened = [({name: entry.double() for name, entry in first.items()}, x.double()) for first, x in (point, vector)]
    expected = hesse.Hessian(through(wide), widened[0]) @ widened[1]
    v = hesse.Hessian(through(wide), widened[0])
    along, step = v.flatten(widened[1]), 1e-5
    start = v.flatten(widened[0])
    ahead, behind = [v.at(v.unflatten(start + shift * along)) for shift in (step, -step)]
    differences = (v.flatten(ahead.gradient) - v.flatten(behind.gradient)) / (2 * step)
    assert_values(v.flatten(expected), differences, rtol=1e-5, atol=1e-5)
    product = hesse.vhp(through(layer), point, vector)[1]
    for name, entry in product[0].items():
        assert_values(entry.double(), expected[0][name], rtol=1e-3, atol=1e-4)
    assert_values(product[1].double(), expected[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", RECURRENT)
def test_dropout_between_recurrent_layers_stays_that_of_the_kernel(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "by_cudnn", lambda entry: True)
    layer, x = RECURRENT[kind](3, 4, num_layers=2, dropout=0.5, dtype=DOUBLE), draw(5, 2, 3)
    func = lambda x: (layer(x)[0] ** 2).sum()  # noqa: E731  # a function in one line
    torch.manual_seed(1)
    expected = func(x)
    torch.manual_seed(1)
    assert torch.equal(hesse.vhp(func, x, draw(5, 2, 3, seed=1))[0], expected)


# Kinds of tensors


def test_channels_last_is_exact_and_keeps_its_layout() -> None:
    weight = draw(3, 2, 2, 2, seed=3)
    x = draw(1, 2, 3, 3).to(memory_format=torch.channels_last)
    func = lambda x: (F.conv2d(x, weight).sin() ** 2).sum()  # noqa: E731  # a function in one line
    assert_products_are(func, lambda x: func(x.contiguous()), x)


@pytest.mark.parametrize("view", ["expanded", "overlapping", "strided", "transposed"])
def test_inputs_that_are_views_are_exact(view: str) -> None:
    base = draw(7)
    x = {
        "expanded": base[:3].expand(2, 3),
        "overlapping": base.unfold(0, 3, 2),
        "strided": base[::2],
        "transposed": base[:6].reshape(2, 3).T,
    }[view]
    weights = torch.arange(1.0, x.numel() + 1, dtype=DOUBLE).reshape(x.shape)
    func = lambda x: ((x * weights).sin() * x.prod()).sum()  # noqa: E731  # a function in one line
    assert_products_are(func, func, x)


def test_windows_onto_memory_are_exact() -> None:
    def func(x: Tensor) -> Tensor:
        return ((x.sin()[1:].as_strided((3, 2), (1, 2), 1)) ** 3).sum()

    places = torch.tensor([[1, 3], [2, 4], [3, 5]])
    assert_products_are(func, lambda x: (x.sin()[places] ** 3).sum(), draw(6))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
def test_nested_inputs_are_refused_by_name(layout: torch.layout) -> None:
    x = torch.nested.nested_tensor([draw(2), draw(3)], layout=layout)
    for product in (hesse.vhp, hesse.hvp, lambda func, x, v: hesse.Hessian(func, x)):
        with pytest.raises(TypeError, match="a nested tensor"):
            product(lambda x: (x * x).to_padded_tensor(0.0).sum(), x, x)
