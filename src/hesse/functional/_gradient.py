"""The gradient of a function as a function, whose results autograd follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hesse._autograd.arguments import check_point, evaluate_scalar, without_history
from hesse._autograd.dependence import followed_function, require_dependence
from hesse._autograd.evaluation import differentiate, inside_transform
from hesse._autograd.gradients import gradient_to_multiply, unaliased, zeros_where_none
from hesse._autograd.refusal import located
from hesse._base import checks
from hesse._linearize.differentiable import Differentiable
from hesse._linearize.options import Verify, check_verify

Engine = Literal["tape", "compiled"]


def check_curried(name: str, func: Any, has_aux: Any, engine: Any, verify: Any) -> None:
    """Raise unless these are what an entry of ``hesse.func`` takes."""
    if engine not in get_args(Engine):
        raise ValueError(f'engine given to {name} should be "tape" or "compiled" but is {engine!r}.')
    checks.functions(name, func=func)
    checks.flags(name, has_aux=has_aux)
    check_verify(name, verify)


def refuse_inside(name: str) -> None:
    """Raise where programs cannot run."""
    if inside_transform() or torch.compiler.is_compiling():
        raise RuntimeError(
            f'{name} with engine="compiled" cannot run inside a torch.func transform or torch.compile. Use'
            ' engine="tape" there.'
        )


class Gradient:
    """Computes ``(value, gradient, aux)`` of a scalar function.

    Args:
        name: what errors call the entry that the function was given to.
        has_value: the value is differentiable too; it costs nothing else.
    """

    def __init__(
        self,
        name: str,
        func: Callable[..., Any],
        argnums: int | tuple[int, ...],
        *,
        has_aux: bool,
        has_value: bool,
        engine: Engine,
        verify: Verify,
    ) -> None:
        check_curried(name, func, has_aux, engine, verify)
        self._name, self._func, self._argnums = name, func, argnums
        self._has_aux, self._has_value = has_aux, has_value
        self._programs = Differentiable(func, name, verify=verify) if engine == "compiled" else None

    def __call__(self, *arguments: Any, **keywords: Any) -> tuple[Any, Any, Any]:
        """The value, the gradient structured like what is differentiated by, and the auxiliary output."""
        name, has_aux = self._name, self._has_aux

        def func(*arguments: Any) -> Any:
            return self._func(*arguments, **keywords)

        point = check_point(name, func, arguments, self._argnums)
        reads = followed_function(name, self._func, (arguments, keywords), point, has_aux)

        def gradient_at(x: tuple[Tensor, ...], again: bool = False) -> tuple[list[Tensor], Any]:
            output, aux = evaluate_scalar(name, point, x, False, has_aux)
            found = gradient_to_multiply(output, x, again)
            if any([entry is None for entry in found]):
                require_dependence(name, "a function whose value", [output], x, reads)
            values = [output] if self._has_value else []
            return [*values, *zeros_where_none(found, x)], without_history(aux, again)

        def by_tape() -> tuple[list[Tensor], Any]:
            results, aux = differentiate(lambda x: gradient_at(x, again=True), point.leaves, create_graph=True)
            if not (torch.is_grad_enabled() or inside_transform()):
                results = [result.detach() for result in results]
            return results, aux

        evaluated = None
        if self._programs is not None:
            refuse_inside(name)
            evaluated = self._programs.evaluate(gradient_at, point.leaves, (arguments, keywords))
        outputs, aux = evaluated or located(name, self._func, arguments, by_tape)
        outputs = list(unaliased(outputs))
        value = outputs.pop(0) if self._has_value else None
        return value, point.spec.rebuild(outputs), aux
