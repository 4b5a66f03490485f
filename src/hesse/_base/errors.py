"""The errors and warnings of hesse that Python and PyTorch have no name for.

Each message is one sentence, then a remedy.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from pathlib import Path
from typing import Any

# Frames of context managers are hesse's own where they are decorators.
_OURS = str(Path(__file__).parents[1]), contextlib.__file__


class StalePointError(RuntimeError):
    """A product was asked of an operator whose point has changed since it was made.

    Raised when an input, parameter, buffer or captured tensor was modified in place. Its message names the
    tensor. The remedy is ``operator.at(inputs)``, which evaluates the function where it is now.

    Writes through ``.data`` or NumPy count no version; they are noticed in tensors of up to 4096 elements, and in
    larger ones when they change one of the elements that are sampled along each dimension.
    """

    __module__ = "hesse"


class ClosedError(RuntimeError):
    """A product was asked of an operator whose graph was freed by ``close()`` or by leaving its ``with`` block."""

    __module__ = "hesse"


class NonFiniteProductError(RuntimeError):
    """A product that a question asked for holds infinities or NaNs, so nothing can be concluded from it."""

    __module__ = "hesse"


class MemoryBudgetError(MemoryError):
    """Products or a question's vectors take more memory than ``memory=`` allows, or than there is, even the fewest.

    Its message says what they take. The remedies are more memory, fewer columns or eigenvalues, or fewer inputs.
    """

    __module__ = "hesse"


class ConvergenceWarning(UserWarning):
    """A question made all its products before its answer was as good as asked for; its ``converged`` is false."""

    __module__ = "hesse"


class NoDerivativeError(NotImplementedError):
    """A derivative was needed of an operator that neither PyTorch nor a rule of hesse can differentiate.

    Attributes:
        operator: its name, such as ``aten::hardsigmoid_backward``.
        place: where the user's code called what needs it, as ``file:line``; None where that could not be told.
    """

    __module__ = "hesse"

    def __init__(self, message: str, operator: str, place: str | None) -> None:
        super().__init__(message)
        self.operator = operator
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled by their args, which hold the message only.
        return type(self), (*self.args, self.operator, self.place), self.__dict__


class CheckpointError(RuntimeError):
    """A checkpoint cannot be gone on from: it is of another question or operator, of another version, or damaged.

    Nothing has been written over it.
    """

    __module__ = "hesse"


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written, so a question that is stopped now goes on from an older one, or begins anew.

    Issued when writing first fails, and at the end of the question if nothing was written since.
    """

    __module__ = "hesse"


class CaptureError(RuntimeError):
    """A function cannot be captured for ``engine="compiled"``, or its program does not agree with the tape.

    Its message names the operator, tensor or line. The remedy is ``engine="tape"``, or ``"auto"``, which goes on
    with the tape by itself.
    """

    __module__ = "hesse"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without a final full stop."""
    return str(error).strip().split("\n", 1)[0].rstrip(".")


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside of hesse that led here, however deep inside the reason was found."""
    frame, depth = inspect.currentframe(), 0
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, category, stacklevel=depth + 1)
