"""Tell which line of the user's code needs a derivative that does not exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from hesse._autograd.gradients import MissingDerivative
from hesse._autograd.provenance import locate
from hesse._base.errors import NoDerivativeError
from hesse._rules.scope import inside_transform

Result = TypeVar("Result")


def located(name: str, func: Callable[..., Any], inputs: Any, compute: Callable[[], Result]) -> Result:
    """``compute()``; where a derivative does not exist, the error has the line of ``func`` that needs it."""
    try:
        return compute()
    except MissingDerivative as missing:
        raise no_derivative(missing, name, func, inputs, compute) from missing.__cause__


def no_derivative(
    missing: MissingDerivative, name: str, func: Callable[..., Any], inputs: Any, again: Callable[[], object]
) -> NoDerivativeError:
    """The error to raise for ``missing``, with the line of ``func`` that needs the derivative.

    To find the line, ``again`` evaluates ``func`` at ``inputs`` once more, and fails once more.
    """
    failure = None if inside_transform() else locate(again, func, inputs)
    frame = failure.frame if failure else None
    where = f" at {frame}" + (f", in `{frame.code}`" if frame.code else "") if frame else ""
    return NoDerivativeError(
        f"The function given to {name} cannot be differentiated{where}: {missing.reason}. {missing.remedy}",
        missing.operator or (failure.node if failure else "an operator"),
        None if frame is None else str(frame),
    )
