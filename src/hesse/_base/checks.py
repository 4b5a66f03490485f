"""What an argument must be: one sentence that names the entry and the argument, what was expected, and what came.

A value of a wrong type is a ``TypeError``, a number out of range a ``ValueError``.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

# Longer values are told by their types alone.
_LONGEST = 40


def numbers(entry: str, *, least: float | None = 0, optional: bool = False, **values: Any) -> None:
    """Numbers, of at least ``least`` where that is given; None stands for a default where they are optional."""
    for name, value in _given(values, optional):
        if not _is_number(value):
            _refuse(entry, name, "a number", value)
        if least is not None and not value >= least:
            raise ValueError(f"{name} given to {entry} should be at least {least} but is {value}.")


def fractions(entry: str, **values: Any) -> None:
    """Numbers between 0 and 1."""
    for name, value in values.items():
        if not _is_number(value):
            _refuse(entry, name, "a number", value)
        if not 0 < value < 1:
            raise ValueError(f"{name} given to {entry} should be between 0 and 1 but is {value}.")


def wholes(entry: str, least: int | None, *, optional: bool = False, **values: Any) -> None:
    """Whole numbers, of at least ``least`` where that is given; None stands for a default where they are optional."""
    for name, value in _given(values, optional):
        try:
            index = operator.index(value)
        except TypeError:
            _refuse(entry, name, "a whole number", value)
        if isinstance(value, bool):
            _refuse(entry, name, "a whole number", value)
        if least is not None and index < least:
            raise ValueError(f"{name} given to {entry} should be at least {least} but is {index}.")


def flags(entry: str, **values: Any) -> None:
    """True or False."""
    for name, value in values.items():
        # Numbers stand for them in many a program.
        if not isinstance(value, bool | np.bool_) and not (isinstance(value, int) and value in (0, 1)):
            _refuse(entry, name, "True or False", value)


def choices(entry: str, known: Sequence[str], **values: Any) -> None:
    """Names out of a few."""
    for name, value in values.items():
        if not isinstance(value, str) or value not in known:
            listed = ", ".join(map(repr, known))
            raise ValueError(f"{name} given to {entry} should be one of {listed} but is {shown(value)}.")


def functions(entry: str, *, optional: bool = False, **values: Any) -> None:
    """Functions; of a class whose instances are functions, such as a loss of PyTorch, an instance."""
    for name, value in _given(values, optional):
        if not callable(value):
            raise TypeError(f"{name} given to {entry} should be callable but has type {type(value)}.")
        if isinstance(value, type) and any("__call__" in vars(base) for base in value.__mro__):
            raise TypeError(
                f"{name} given to {entry} should be a function but is {shown(value)}. Give an instance of it, such as"
                f" {value.__name__}()."
            )


def listed(entry: str, name: str, value: Any) -> list[float]:
    """The numbers of a sequence of them."""
    try:
        found = list(value)
    except TypeError:
        _refuse(entry, name, "a sequence of numbers", value)
    if not all(map(_is_number, found)):
        _refuse(entry, name, "a sequence of numbers", value)
    return [float(number) for number in found]


def devices(entry: str, *, optional: bool = False, **values: Any) -> None:
    """Names of devices that PyTorch knows, or devices themselves."""
    for name, value in _given(values, optional):
        try:
            torch.device(value)
        except (RuntimeError, TypeError):
            _refuse(entry, name, "a device", value)


def paths(entry: str, **values: Any) -> None:
    """Paths of files."""
    for name, value in values.items():
        if not isinstance(value, str | os.PathLike):
            _refuse(entry, name, "a path", value)


def _given(values: dict[str, Any], optional: bool) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in values.items() if not (optional and value is None))


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim == 0 and isinstance(value.item(), int | float)
    return isinstance(value, Real) and not isinstance(value, bool)


def _refuse(entry: str, name: str, wanted: str, value: Any) -> NoReturn:
    raise TypeError(f"{name} given to {entry} should be {wanted} but is {shown(value)}.")


def shown(value: Any) -> str:
    """A value in a sentence: what it is, or where that is long, of which type."""
    if value is None or isinstance(value, bool | str):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = repr(value)
    kind = f"of type {type(value).__name__}"
    return kind if len(text) > _LONGEST or "\n" in text or text.startswith("<") else f"{text}, {kind}"
