"""Tell which line of the user's code needs a derivative that does not exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from hesse.errors import NoDerivativeError
from hesse.functional.gradients import MissingDerivative
from hesse.functional.provenance import locate
from hesse.rules.scope import inside_transform

Result = TypeVar("Result")


def explained(
    name: str,
    func: Callable[..., Any],
    inputs: Any,
    compute: Callable[[], Result],
    again: Callable[[], object] | None = None,
) -> Result:
    """``compute()``, where a missing derivative is told with the line of ``func`` that needs it.

    To find the line, ``again`` (or ``compute``) evaluates ``func`` at ``inputs`` once more and fails once more.
    """
    try:
        return compute()
    except MissingDerivative as missing:
        failure = None if inside_transform() else locate(again or compute, func, inputs)
        frame = failure.frame if failure else None
        where = f" at {frame}" + (f", in `{frame.code}`" if frame.code else "") if frame else ""
        raise NoDerivativeError(
            f"The function given to {name} cannot be differentiated{where}: derivative for {missing.operator} is not"
            " implemented, neither by PyTorch nor as a rule of hesse. Write that in other operations, or give the"
            ' operator a rule (docs/architecture.md, "How to write a rule").',
            missing.operator,
            None if frame is None else str(frame),
        ) from missing.__cause__
