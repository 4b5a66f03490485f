"""What a rule is: an operator that PyTorch cannot differentiate, and a way to differentiate it.

Nearly every second derivative that PyTorch refuses is one aten operator, ``…_backward``, without a derivative. A rule
gives it one. Values stay PyTorch's own, unless the rule knows a faster way to them: the operator itself still runs, so
forward and first backward keep their fused kernels, and only the derivative is the rule's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hesse._rules.arguments import call, leaves_of, nested, save, saved
from hesse._rules.batches import one_by_one, sample_by_sample
from hesse._rules.engine import wanted
from hesse._rules.pullback import Outputs, pullback, pushforward
from hesse._rules.scope import inside_transform, intercept, within_transform

Rewrite = Callable[..., Tensor | Outputs]
"""The operator, arguments and results alike, in operations that PyTorch differentiates as often as one likes."""

Derivative = Callable[[Sequence[Any], Sequence[bool], Outputs], Outputs | None]
"""``derivative(arguments, wanted, cotangents)``: cotangentsᵀ · ∂operator/∂arguments, an entry for each argument.

``wanted`` says which entries are; an entry that is not, or that is zero, may be None, and so may a cotangent that is
zero. Entries of a list of tensors count singly, one after the other. None for all says that there is no faster way.
"""

Tangent = Callable[[Sequence[Any], Outputs], Outputs | None]
"""``tangent(arguments, directions)``: ∂operator/∂arguments · directions, an entry for each result of the operator.

None for all says that there is no faster way.
"""

Values = Callable[[Sequence[Any]], Outputs | None]
"""``values(arguments)``: the operator's results; None says that there is no faster way than the operator."""


@dataclass(frozen=True)
class Faster:
    """Faster ways to a rewrite's first derivative, and to its values; what they compute need not be differentiable.

    ``tangent`` is also the derivative of ``derivative`` by its cotangents, which ``hvp`` asks for.
    """

    derivative: Derivative
    tangent: Tangent
    values: Values | None = None


@dataclass(frozen=True)
class Rule:
    """An operator, and its derivative: as a rewrite, and perhaps in faster ways besides."""

    operator: torch._ops.OpOverload
    rewrite: Rewrite
    faster: Faster | None
    where: Callable[[Sequence[Any]], bool] | None
    batched_by_rewrite: bool
    otherwise: Callable[[Sequence[Any]], Any] | None = None

    def values(self, arguments: Sequence[Any]) -> Any:
        """The operator's results."""
        if inside_transform():
            return self.rewrite(*arguments) if self.batched_by_rewrite else call(self.operator, arguments)
        found = self.faster.values(arguments) if self.faster and self.faster.values else None
        return call(self.operator, arguments) if found is None else found


RULES: dict[str, Rule] = {}
"""The rules, by the full names of their operators."""


def rule(
    name: str,
    faster: Faster | None = None,
    *,
    where: Callable[[Sequence[Any]], bool] | None = None,
    batched_by_rewrite: bool = False,
    otherwise: Callable[[Sequence[Any]], Any] | None = None,
) -> Callable[[Rewrite], Rewrite]:
    """Decorator of a rewrite of the operator ``name``, "aten::name" or "aten::name.overload".

    The rewrite takes every argument of the operator's schema, in order and by position, and returns what the
    operator returns (anything in place of a result that the arguments switch off). It is called for derivatives only.
    Where no differentiable result is asked for, ``faster`` serves in its stead. ``where`` tells from the arguments
    whether a call needs the rule; the others are PyTorch's. ``batched_by_rewrite``: inside a transform the values too
    are the rewrite's, since PyTorch's batching of the operator is wrong. ``otherwise`` is asked first, and gives the
    results of a call that takes another way, or None.
    """

    def register(rewrite: Rewrite) -> Rewrite:
        operator = operator_of(name)
        if operator is not None:
            RULES[name] = Rule(operator, rewrite, faster, where, batched_by_rewrite, otherwise)
            intercept_both(name, _kernel(RULES[name]))
        return rewrite

    return register


def intercept_both(name: str, kernel: Callable[..., Any]) -> None:
    """Call ``kernel`` for an operator and, on a copy, for its variant that works in place."""
    intercept(name, kernel)
    operator = operator_of(name)
    variant = None if operator is None else _in_place_variant(operator)
    if variant is None:
        return

    def in_place(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if torch.is_grad_enabled():
            result = kernel(x.clone(), *args, **kwargs)
            if result.dtype == x.dtype and result.shape == x.shape:
                return x.copy_(result)
        changed: Tensor = variant(x, *args, **kwargs)
        return changed

    schema = variant._schema
    intercept(f"{schema.name}.{schema.overload_name}".removesuffix("."), in_place)


def _in_place_variant(operator: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """The overload of the operator of the same name with a ``_`` that takes the same arguments."""
    packet = getattr(torch.ops.aten, f"{operator._opname}_", None)
    types = [str(argument.type) for argument in operator._schema.arguments]
    for overload in packet.overloads() if packet else ():
        variant: torch._ops.OpOverload = getattr(packet, overload)
        if [str(argument.type) for argument in variant._schema.arguments] == types:
            return variant
    return None


def operator_of(name: str) -> torch._ops.OpOverload | None:
    """The operator of that name, or None where this release or build of PyTorch has none."""
    packet, _, overload = name.removeprefix("aten::").partition(".")
    found: torch._ops.OpOverload | None = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
    return found


def _kernel(rule: Rule) -> Callable[..., Any]:
    """What is called in the operator's place: the operator, with a derivative."""
    # A class of its own, so that its node in the graph has the operator's name.
    function: Any = type(rule.operator._opname, (_Operator,), {})
    several = len(rule.operator._schema.returns) > 1

    def kernel(*args: Any, **kwargs: Any) -> Any:
        leaves = leaves_of(rule.operator, args, kwargs)
        if not torch.is_grad_enabled():
            return rule.values(nested(*leaves))
        if within_transform():
            return rule.rewrite(*nested(*leaves))
        if rule.where is not None and not rule.where(nested(*leaves)):
            return rule.operator(*args, **kwargs)
        found = None if rule.otherwise is None else rule.otherwise(nested(*leaves))
        if found is not None:
            return found
        results = one_by_one(lambda *entries: function.apply(rule, leaves.lengths, *entries), leaves.entries)
        return results if several else results[0]

    return kernel


Lengths = tuple[int | None, ...]


class _Operator(torch.autograd.Function):
    """The operator, with the rule's derivative."""

    # PyTorch batches what these methods do where a transform asks for it.
    generate_vmap_rule = True

    @staticmethod
    def forward(rule: Rule, lengths: Lengths, *leaves: Any) -> tuple[Any, ...]:
        results = rule.values(nested(leaves, lengths))
        results = results if isinstance(results, tuple) else (results,)
        # Batched by PyTorch, an operator may hand an argument through, which autograd takes for one that was changed.
        handed = {id(leaf) for leaf in leaves if isinstance(leaf, Tensor)}
        return tuple([result.clone() if id(result) in handed else result for result in results])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.rule, ctx.lengths, *leaves = inputs
        save(ctx, leaves)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        rule, lengths, leaves = ctx.rule, ctx.lengths, saved(ctx)
        count, faster, transformed = len(leaves), rule.faster, inside_transform()
        follow = tuple(ctx.needs_input_grad[2:]) if transformed else _wanted(ctx, count)

        def derivative(*entries: Any) -> Outputs:
            leaves, cotangents = entries[:count], entries[count:]
            if faster is None or (transformed and torch.is_grad_enabled()):
                return _by_rewrite(rule.rewrite, lengths, follow, leaves, cotangents)
            if not transformed and not torch.is_grad_enabled():
                return _by_faster(rule.rewrite, faster, lengths, follow, leaves, cotangents)
            function: Any = _Derivative
            found: Outputs = function.apply(rule.rewrite, faster, lengths, follow, *entries)
            return _placed(found, [place for place, is_wanted in enumerate(follow) if is_wanted], count)

        return None, None, *one_by_one(derivative, [*leaves, *cotangents])

    @staticmethod
    def jvp(ctx: Any, _rule: None, _lengths: None, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        rewrite, lengths = ctx.rule.rewrite, ctx.lengths
        along = {place: tangent for place, tangent in enumerate(tangents) if tangent is not None}
        function = lambda *leaves: rewrite(*nested(leaves, lengths))  # noqa: E731  # a function in one line
        return tuple(pushforward(function, saved(ctx), list(along), list(along.values())))


class _Derivative(torch.autograd.Function):
    """The faster derivative with one of its own: by cotangents it is the tangent, by anything else the rewrite's.

    The entries are the operator's leaves and then the cotangents; the results those of the leaves that are followed.
    """

    @staticmethod
    def forward(
        rewrite: Rewrite, faster: Faster, lengths: Lengths, follow: Sequence[bool], *entries: Any
    ) -> tuple[Tensor, ...]:
        leaves, cotangents = entries[: len(follow)], entries[len(follow) :]
        found = _by_faster(rewrite, faster, lengths, follow, leaves, cotangents)
        return tuple(
            [
                torch.zeros_like(leaf) if entry is None else entry
                for entry, leaf, is_wanted in zip(found, leaves, follow, strict=True)
                if is_wanted
            ]
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.rewrite, ctx.faster, ctx.lengths, ctx.follow, *entries = inputs
        save(ctx, entries)

    @staticmethod
    def backward(ctx: Any, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
        entries, lengths, count = saved(ctx), ctx.lengths, len(ctx.follow)
        leaves_followed = [place for place, is_wanted in enumerate(ctx.follow) if is_wanted]
        transformed = inside_transform()
        follow = ctx.needs_input_grad[4:] if transformed else _wanted(ctx, len(entries))
        places = [place for place, is_wanted in enumerate(follow) if is_wanted]

        def derivative(*entries: Any) -> Outputs:
            found = _by_rewrite(ctx.rewrite, lengths, ctx.follow, entries[:count], entries[count:])
            return [found[place] for place in leaves_followed]

        def second_derivative(*everything: Any) -> Outputs:
            entries, directions = everything[: len(follow)], everything[len(follow) :]
            if not (transformed or torch.is_grad_enabled() or any(follow[:count])):
                along = _placed(directions, leaves_followed, count)
                by_cotangents = ctx.faster.tangent(nested(entries[:count], lengths), along)
                if by_cotangents is not None:
                    return [*[None] * count, *by_cotangents]
            return _placed(pullback(derivative, entries, places, directions), places, len(entries))

        return *[None] * 4, *one_by_one(second_derivative, [*entries, *directions])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Sample by sample: a batch of what has been made to fit into memory need not fit."""
        function: Any = _Derivative
        return sample_by_sample(function.apply, info.batch_size, in_dims, inputs)


def _by_faster(
    rewrite: Rewrite,
    faster: Faster,
    lengths: Lengths,
    follow: Sequence[bool],
    leaves: Sequence[Any],
    cotangents: Outputs,
) -> Outputs:
    """cotangentsᵀ · ∂operator/∂leaves by the faster way, or by the rewrite where it says that there is none."""
    found = faster.derivative(nested(leaves, lengths), follow, cotangents)
    return _by_rewrite(rewrite, lengths, follow, leaves, cotangents) if found is None else found


def _by_rewrite(
    rewrite: Rewrite, lengths: Lengths, follow: Sequence[bool], leaves: Sequence[Any], cotangents: Outputs
) -> list[Tensor | None]:
    """cotangentsᵀ · ∂rewrite/∂leaves, an entry for each leaf, None for those not followed."""
    places = [place for place, is_wanted in enumerate(follow) if is_wanted]
    found = pullback(lambda *leaves: rewrite(*nested(leaves, lengths)), leaves, places, cotangents)
    return _placed(found, places, len(leaves))


def _placed(found: Sequence[Tensor | None], places: Sequence[int], count: int) -> list[Tensor | None]:
    """What was found, in its places among ``count`` entries."""
    entries: list[Tensor | None] = [None] * count
    for place, entry in zip(places, found, strict=True):
        entries[place] = entry
    return entries


def _wanted(ctx: Any, count: int) -> tuple[bool, ...]:
    """For each of the entries that :func:`save` kept, whether the engine follows its gradient."""
    follow = dict(zip(ctx.places, wanted(ctx), strict=True))
    return tuple([follow.get(place, False) for place in range(count)])
