"""Inputs of every structure, size and dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .scenario import Case, draw, positive, scenario


@scenario
def dictionary_of_inputs() -> Case:
    # Not in alphabetical order: flat order is the order of insertion.
    return Case(
        lambda tree: (torch.sin(tree["weight"]) @ tree["bias"]).sum() ** 2,
        {"weight": draw(2, 3), "bias": draw(3)},
    )


@scenario
def list_of_inputs() -> Case:
    return Case(lambda entries: (entries[0] * entries[1] ** 2).sum() * entries[2], [draw(3), draw(3), draw()])


@scenario
def nested_inputs() -> Case:
    def func(tree: dict[str, Any], scale: Tensor) -> Tensor:
        first, (second, third) = tree["layers"]
        return scale**2 * torch.tanh(first["w"] @ second + third).sum()

    return Case(func, ({"layers": [{"w": draw(2, 3)}, (draw(3), draw(2))]}, draw()))


@dataclass
class Ellipse:
    """A plain dataclass, not registered as a pytree."""

    center: Tensor
    axes: Tensor


@scenario
def dataclass_of_inputs() -> Case:
    points = draw(4, 2)

    def func(ellipse: Ellipse) -> Tensor:
        return ((((points - ellipse.center) / ellipse.axes) ** 2).sum(-1) - 1).pow(2).sum()

    return Case(func, Ellipse(draw(2), 1 + positive(2)))


@scenario
def tuple_of_one_input() -> Case:
    return Case(lambda x: (x**3).prod(), (draw(3),))


@scenario
def single_and_double_precision_together() -> Case:
    return Case(lambda x, y: (torch.sin(x).double() * y**2).sum(), (draw(3, dtype=torch.float32), draw(3)))


@scenario
def single_precision() -> Case:
    return Case(lambda x: torch.exp(torch.sin(x)).prod(), draw(4, dtype=torch.float32))


@scenario
def inputs_without_dimensions() -> Case:
    return Case(lambda x, y: torch.exp(x * y) + x**3, (draw(), draw()))


@scenario
def one_empty_input_among_others() -> Case:
    return Case(lambda x, empty: (x**3).sum() + (empty**2).sum(), (draw(3), draw(0, 2)))


@scenario
def the_same_tensor_twice() -> Case:
    x = draw(3)
    hessian = torch.cat(
        [
            torch.cat([torch.diag(2 * x), torch.diag(2 * x)], 1),
            torch.cat([torch.diag(2 * x), torch.zeros(3, 3)], 1),
        ]
    )
    return Case(lambda a, b: (a**2 * b).sum(), (x, x), hessian)


@scenario
def input_that_is_captured_as_well() -> Case:
    # The captured original is a constant.
    x = draw(3)
    return Case(lambda y: (x * y**2).sum(), x, torch.diag(2 * x))


@scenario
def input_that_requires_gradients_already() -> Case:
    x = nn.Parameter(draw(3))
    return Case(lambda x: (x**4).sum(), x, torch.diag(12 * x.detach() ** 2))


@scenario
def strided_and_transposed_inputs() -> Case:
    return Case(
        lambda x, y: (torch.sin(x) @ y).pow(2).sum(),
        (draw(3, 4)[:, ::2], draw(3, 2).T),
    )


@scenario
def expanded_input() -> Case:
    # Each element of the view counts as a variable of its own.
    return Case(lambda x: (x[0] * x[1] ** 2).sum() ** 2, draw(3).expand(2, 3))


@scenario
def channels_last_input() -> Case:
    kernel = draw(2, 3, 2, 2)
    image = draw(1, 3, 3, 2).to(memory_format=torch.channels_last)
    return Case(lambda image: (torch.conv2d(image, kernel) ** 3).sum(), image)


@scenario
def captured_tensor_that_requires_gradients() -> Case:
    weight = draw(3).requires_grad_()
    return Case(lambda x: (weight * x**3).sum(), draw(3))
