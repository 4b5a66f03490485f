"""``torch.cond``, ``while_loop``, ``scan`` and ``map``: inside of hesse they are the control flow of Python.

PyTorch has first derivatives of these operators only, and the second is zero, without a word. Their branches and bodies
are functions like any other, so they are called, one after the other, and differentiated as often as one likes.

Source: https://docs.pytorch.org/docs/stable/cond.html; the sources of torch._higher_order_ops
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from hesse._base import trees
from hesse._rules.scope import intercept, operator_of, put, put_back

Body = Callable[..., Any]


def _in_place_of(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: call the function for the higher-order operator of that name."""

    def register(kernel: Callable[..., Any]) -> Callable[..., Any]:
        operator: Any = operator_of(f"higher_order::{name}")

        def inside(*args: Any, **kwargs: Any) -> Any:
            # The compiler looks at an operator, without values, before it is called.
            if any(isinstance(leaf, FakeTensor) for leaf in trees.leaves((args, kwargs))):
                return operator(*args, **kwargs)
            # Bodies are the user's code, where rules hold.
            held = put(True)
            try:
                return kernel(*args, **kwargs)
            finally:
                put_back(held)

        intercept(f"higher_order::{name}", inside)
        return kernel

    return register


@_in_place_of("cond")
def cond(pred: Any, true_fn: Body, false_fn: Body, operands: Sequence[Any]) -> Any:
    """The branch that the predicate asks for."""
    return true_fn(*operands) if pred else false_fn(*operands)


@_in_place_of("while_loop")
def while_loop(
    cond_fn: Body, body_fn: Body, carried: Sequence[Any], additional: Sequence[Any], **mutated: Any
) -> tuple[Any, ...]:
    """What is carried, after the body has run for as long as the condition holds."""
    while cond_fn(*carried, *additional):
        carried = body_fn(*carried, *additional)
    return tuple(carried)


@_in_place_of("scan")
def scan(combine: Body, carried: Sequence[Any], xs: Sequence[Any], additional: Sequence[Any]) -> tuple[Any, ...]:
    """What is carried at the end, and then the outputs of all steps along the first dimension."""
    steps, count = [], len(carried)
    for x in zip(*xs, strict=True):
        results = combine(*carried, *x, *additional)
        carried = results[:count]
        steps.append(results[count:])
    return *carried, *[torch.stack(outputs) for outputs in zip(*steps, strict=True)]


@_in_place_of("map_impl")
def map_each(function: Body, xs: Sequence[Any], additional: Sequence[Any]) -> Any:
    """The outputs for each entry along the first dimension."""
    results = [trees.flatten(function(*x, *additional)) for x in zip(*xs, strict=True)]
    stacked = [torch.stack(outputs) for outputs in zip(*[leaves for leaves, _ in results], strict=True)]
    return results[0][1].rebuild(stacked)
