"""LayerNorm, GroupNorm, BatchNorm and InstanceNorm: second and third derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import hesse
from tests.functional.references import DOUBLE, assert_values

from .judge import assert_right, assert_thrice_differentiable, pytorch_differentiates_thrice, refusal, vectors_like


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def wavy(y: Tensor) -> Tensor:
    return (y.sin() * torch.arange(1.0, y.numel() + 1, dtype=DOUBLE).reshape(y.shape)).sum()


def with_bias_alone(x: Tensor, bias: Tensor) -> Tensor:
    return wavy(F.layer_norm(x.sin(), bias.shape, None, bias))


LAYERS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "layer norm": (lambda x, w, b: wavy(F.layer_norm(x.sin(), (3,), w, b)), (draw(2, 3), draw(3), draw(3, seed=1))),
    "layer norm, weight alone": (lambda x, w: wavy(F.layer_norm(x.sin(), (3,), w)), (draw(2, 3), draw(3))),
    "layer norm, bias alone": (with_bias_alone, (draw(2, 3), draw(3))),
    "layer norm, no parameters": (lambda x: wavy(F.layer_norm(x.sin(), (2, 3))), (draw(2, 2, 3),)),
    "layer norm of a vector": (lambda x, w: wavy(F.layer_norm(x.sin(), (4,), w)), (draw(4), draw(4))),
    "batch norm": (
        lambda x, w, b: wavy(F.batch_norm(x.sin(), None, None, w, b, training=True)),
        (draw(4, 2), draw(2), draw(2, seed=1)),
    ),
    "batch norm of images": (
        lambda x: wavy(F.batch_norm(x.sin(), None, None, training=True, eps=0.1)),
        (draw(2, 2, 2, 2),),
    ),
    "batch norm in evaluation": (
        lambda x, w: wavy(F.batch_norm(x.sin(), draw(2), draw(2, seed=3).exp(), w)),
        (draw(4, 2), draw(2)),
    ),
    "batch norm, bias alone": (
        lambda x, b: wavy(F.batch_norm(x.sin(), None, None, None, b, training=True)),
        (draw(4, 2), draw(2)),
    ),
    "batch norm in evaluation, bias alone": (
        lambda x, b: wavy(F.batch_norm(x.sin(), draw(2), draw(2, seed=3).exp(), None, b)),
        (draw(4, 2, 2), draw(2)),
    ),
    "group norm, bias alone": (lambda x, b: wavy(F.group_norm(x.sin(), 2, None, b)), (draw(2, 4, 2), draw(4))),
    "instance norm, bias alone": (lambda x, b: wavy(F.instance_norm(x.sin(), bias=b)), (draw(2, 2, 3), draw(2))),
    "instance norm": (lambda x, w: wavy(F.instance_norm(x.sin(), weight=w)), (draw(2, 2, 3), draw(2))),
}


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if "bias alone" in layer and "group" not in layer])
def test_pytorch_has_no_second_derivative_with_a_bias_but_no_weight(layer: str) -> None:
    assert "Expected a proper Tensor but got None" in refusal(*LAYERS[layer])


def test_pytorch_has_no_gradient_to_differentiate_of_a_group_norm_with_a_bias_but_no_weight() -> None:
    func, inputs = LAYERS["group norm, bias alone"]
    x = [leaf.clone().requires_grad_() for leaf in inputs]
    with pytest.raises(RuntimeError, match="is invalid for input of size"):
        torch.autograd.grad(func(*x), x, create_graph=True)


@pytest.mark.parametrize("layer", ["layer norm", "batch norm", "instance norm"])
def test_third_derivatives_are_wrong_or_missing_in_pytorch(layer: str) -> None:
    assert not pytorch_differentiates_thrice(*LAYERS[layer])


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.one_in(4)
def test_third_derivatives_agree_with_differences_of_products(layer: str) -> None:
    assert_thrice_differentiable(*LAYERS[layer])


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer.startswith("layer norm")])
def test_products_agree_with_differences_of_the_gradient(layer: str) -> None:
    assert_right(*LAYERS[layer])


@pytest.mark.parametrize("shapes", [((2, 3), (3,)), ((2, 2, 3), (2, 3)), ((4,), (4,))], ids=str)
@pytest.mark.private
def test_a_bias_but_no_weight_is_right_in_every_shape(shapes: Sequence[tuple[int, ...]]) -> None:
    x, bias = draw(*shapes[0]), draw(*shapes[1], seed=1)
    assert_right(with_bias_alone, (x, bias))
    assert_right(lambda x: with_bias_alone(x, bias), (x,))
    assert_right(lambda bias: with_bias_alone(x, bias), (bias,))


def test_a_derivative_inside_of_the_function_is_differentiated_twice_more() -> None:
    """As in physics-informed networks: the slope of a normalized network, in a loss whose Hessian is wanted."""
    weight = draw(3, 3, seed=5)

    def func(x: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(wavy(F.layer_norm(x @ weight, (3,))), x, create_graph=True)
        return (slope**2).sum()

    def by_hand(x: Tensor) -> Tensor:
        y = x @ weight
        centered = y - y.mean(-1, keepdim=True)
        normalized = centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        (slope,) = torch.autograd.grad(wavy(normalized), x, create_graph=True)
        return (slope**2).sum()

    x, v = draw(2, 3), draw(2, 3, seed=1)
    expected = torch.autograd.functional.vhp(by_hand, x, v)[1]
    assert_values(hesse.vhp(func, x, v)[1], expected)
    assert_values(hesse.Hessian(func, x) @ v, expected)


def test_the_product_is_that_of_a_weight_of_ones() -> None:
    inputs = draw(2, 3), draw(3, seed=1)
    v = vectors_like(inputs)
    ones = torch.ones(3, dtype=DOUBLE)
    expected = torch.autograd.functional.vhp(lambda x, b: wavy(F.layer_norm(x.sin(), (3,), ones, b)), inputs, v)[1]
    assert_values(hesse.vhp(with_bias_alone, inputs, v)[1], expected)
