"""``F.linear_cross_entropy`` with chunks: to PyTorch, its gradients are constants.

PyTorch makes the gradients with the loss and multiplies them by the cotangent, as if they did not depend on anything:
its double backward is wrong, without a word, and with ``reduction="none"`` it raises. Inside of hesse loss, gradients
and second derivatives are made in :mod:`hesse._rules.linear_cross_entropy.chunks`. Further derivatives, and all of them
inside of torch.func transforms, hold all logits, as ``F.cross_entropy`` of a linear layer does.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hesse._rules.batches import one_by_one
from hesse._rules.linear_cross_entropy.chunks import Derivatives, Layer, losses, losses_and_gradient, second_derivative
from hesse._rules.pullback import pullback
from hesse._rules.scope import inside_transform, intercept

MODULE = "torch.nn.modules.linear_cross_entropy"
SCALAR = "torch_nn::_linear_cross_entropy_batch_chunked"
EACH = "torch_nn::_linear_cross_entropy_batch_chunked_no_reduction"


class Options(NamedTuple):
    """What there is beside the layer."""

    class_weight: Tensor | None
    reduction: str
    ignore_index: int
    dtype: torch.dtype
    """Of the sums inside."""


def _plain(options: Options, target: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.cross_entropy(
        F.linear(x, weight, bias),
        target,
        options.class_weight,
        ignore_index=options.ignore_index,
        reduction=options.reduction,
    )


def _scale(options: Options, target: Tensor) -> tuple[Tensor, Tensor]:
    """The factor of each sample's loss, and targets that are all within the vocabulary."""
    counted = target != options.ignore_index
    target = torch.where(counted, target, 0)
    scale = counted.to(options.dtype)
    if options.class_weight is not None:
        scale = scale * options.class_weight.to(options.dtype)[target]
    return (scale / scale.sum() if options.reduction == "mean" else scale), target


class _Loss(torch.autograd.Function):
    """The loss. A single number has its gradients made with it: those of any cotangent are multiples of them."""

    @staticmethod
    def forward(ctx: Any, options: Options, target: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.options, ctx.gradients = options, None
        ctx.save_for_backward(target, x, weight, bias)
        scale, target = _scale(options, target)
        layer = _layer(options, target, x, weight, bias)
        if options.reduction == "none":
            return (scale * losses(layer)).to(x.dtype)
        each, gradients = losses_and_gradient(layer, scale, ctx.needs_input_grad[2:])
        ctx.gradients = _cast(gradients, x, weight, bias)
        return (scale * each).sum().to(x.dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        def derivative(*entries: Any) -> Any:
            return _Gradient.apply(ctx.gradients, ctx.options, ctx.needs_input_grad[2:], *entries)  # type: ignore[no-untyped-call]  # no types there

        return None, None, *one_by_one(derivative, [cotangent, *ctx.saved_tensors])


class _Gradient(torch.autograd.Function):
    """The gradients times the cotangent, which have the second derivative in chunks."""

    @staticmethod
    def forward(
        ctx: Any,
        gradients: tuple[Tensor | None, ...] | None,
        options: Options,
        wanted: tuple[bool, bool, bool],
        cotangent: Tensor,
        target: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        ctx.options, ctx.wanted = options, wanted
        ctx.save_for_backward(cotangent, target, x, weight, bias)
        if gradients is not None:
            return tuple([None if entry is None else entry * cotangent for entry in gradients])
        scale, target = _scale(options, target)
        layer = _layer(options, target, x, weight, bias)
        return _cast(losses_and_gradient(layer, scale * cotangent, wanted)[1], x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *along: Tensor | None) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad
        places = [place for place in (0, 2, 3, 4) if needed[3 + place]]
        grad_enabled = torch.is_grad_enabled()

        def by_plain(cotangent: Tensor, target: Tensor, *tensors: Tensor | None) -> list[Tensor | None]:
            plain = lambda *tensors: _plain(ctx.options, target, *tensors)  # noqa: E731  # a function in one line
            found = dict.fromkeys(range(3))
            followed = [place for place, is_wanted in enumerate(ctx.wanted) if is_wanted]
            found.update(zip(followed, pullback(plain, tensors, followed, [cotangent]), strict=True))
            return list(found.values())

        def derivative(*everything: Any) -> list[Tensor | None]:
            entries, along = everything[:5], everything[5:]
            found: list[Tensor | None] = [None] * 5
            if grad_enabled:
                for place, entry in zip(places, pullback(by_plain, entries, places, along), strict=True):
                    found[place] = entry
                return found
            cotangent, target, *tensors = entries
            options: Options = ctx.options
            scale, target = _scale(options, target)
            direction = Derivatives(*[None if entry is None else entry.to(options.dtype) for entry in along])
            by_scale, by_layer = second_derivative(
                _layer(options, target, *tensors), scale * cotangent, direction, needed[5:]
            )
            by_cotangent = by_scale * scale
            found[0] = by_cotangent if options.reduction == "none" else by_cotangent.sum()
            found[2:] = _cast(by_layer, *tensors)
            return found

        return None, None, None, *one_by_one(derivative, [*ctx.saved_tensors, *along])


def _layer(options: Options, target: Tensor, *tensors: Tensor | None) -> Layer:
    x, weight, bias = [None if entry is None else entry.detach().to(options.dtype) for entry in tensors]
    assert x is not None
    assert weight is not None
    return Layer(x, weight, bias, target)


def _cast(found: Derivatives, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(
        [
            None if entry is None or tensor is None else entry.to(tensor.dtype)
            for entry, tensor in zip(found, tensors, strict=True)
        ]
    )


def _loss(options: Options, arguments: Sequence[Any]) -> Tensor:
    x, weight, target, bias = arguments[:4]
    if inside_transform():
        return _plain(options, target, x, weight, bias)
    loss: Tensor = _Loss.apply(options, target, x, weight, bias)  # type: ignore[no-untyped-call]  # no types there
    return loss


def _scalar(*arguments: Any) -> Any:
    if not torch.is_grad_enabled():
        return torch.ops.torch_nn._linear_cross_entropy_batch_chunked(*arguments)
    x, class_weight, reduction, ignore_index, dtype = [arguments[place] for place in (0, 4, 5, 6, 10)]
    # The operator's other results are gradients, which nobody but its own backward looks at.
    return _loss(Options(class_weight, reduction, ignore_index, dtype), arguments), *x.new_empty((3, 0))


def _each(*arguments: Any) -> Any:
    if not torch.is_grad_enabled():
        return torch.ops.torch_nn._linear_cross_entropy_batch_chunked_no_reduction(*arguments)
    class_weight, ignore_index, dtype = [arguments[place] for place in (4, 5, 8)]
    return _loss(Options(class_weight, "none", ignore_index, dtype), arguments)


if importlib.util.find_spec(MODULE) is not None:  # PyTorch 2.13 and later
    importlib.import_module(MODULE)
    intercept(SCALAR, _scalar)
    intercept(EACH, _each)
