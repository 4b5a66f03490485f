"""From a problem file to a ``Problem``, with one sentence for each way it may not be one."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hesse._base import trees
from hesse._cli.failures import CommandError, UserError, attributed, raised_in, sentence
from hesse._data.batches import Cast
from hesse._data.losses import recognize
from hesse._operators.problem import Problem

_MODULE = "hesse_problem_file"


class UserFunction:
    """The problem's function, with its failures marked as the user's."""

    def __init__(self, func: Callable[..., Any], hint: str) -> None:
        self.func = func
        self.hint = hint

    def __call__(self, *inputs: Any) -> Any:
        try:
            return self.func(*inputs)
        except (Exception, SystemExit) as error:
            raise UserError(error, self.hint) from error


def load(path: Path, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Problem:
    """The problem of a file, on a device and in a precision where they are given."""
    wanted = {key: value for key, value in (("device", device), ("dtype", dtype)) if value is not None}
    make = _problem_function(path)
    passed = _keywords(make, wanted, path)
    problem = _call(make, passed, path)
    left = [key for key in wanted if key not in passed]
    hint = _hint(left) if left else ""
    with attributed(hint):
        if problem.model is not None:
            return _moved(problem, device if "device" in left else None, dtype if "dtype" in left else None)
        inputs = problem.inputs
        if left:
            inputs = _cast(inputs, None if "device" in passed else device, None if "dtype" in passed else dtype)
        return dataclasses.replace(problem, func=UserFunction(problem.func, hint), inputs=inputs)


def _problem_function(path: Path) -> Callable[..., Any]:
    module = _import(path)
    make = getattr(module, "problem", None)
    if not callable(make):
        raise CommandError(f"{path} has no function problem().")
    return make  # type: ignore[no-any-return]  # a user's file has any type


def _import(path: Path) -> types.ModuleType:
    try:
        source = path.read_bytes()
    except FileNotFoundError as error:
        raise CommandError(f"The problem file {path} does not exist.") from error
    except OSError as error:
        raise CommandError(f"The problem file {path} cannot be read: {error.strerror}.") from error
    # Executed by hand, since an import would write a cache beside the user's file, and trust it within a second.
    module = types.ModuleType(_MODULE)
    module.__file__ = str(path)
    sys.modules[_MODULE] = module
    # Its neighbors can be imported, as when Python runs the file.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise CommandError(
            f"{path} does not import{_line(error, path)}: {type(error).__name__}: {sentence(error)}"
        ) from error
    return module


def _line(error: BaseException, path: Path) -> str:
    """At which line of the file, where that is known and the message does not say it anyway."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(path)]
    return f" (line {lines[-1]})" if lines else ""


def _keywords(make: Callable[..., Any], wanted: dict[str, Any], path: Path) -> dict[str, Any]:
    """Those of the wanted keywords that ``problem`` takes."""
    parameters = inspect.signature(make).parameters.values()
    any_keyword = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }
    passed = {key: value for key, value in wanted.items() if any_keyword or key in named}
    for parameter in parameters:
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and not variadic and parameter.name not in passed:
            raise CommandError(
                f"problem() in {path} should need no arguments but needs {parameter.name!r}; only device and dtype"
                " may be there, with defaults."
            )
    return passed


def _call(make: Callable[..., Any], passed: dict[str, Any], path: Path) -> Problem:
    try:
        problem = make(**passed)
    except (Exception, SystemExit) as error:
        if raised_in(error, Problem.__post_init__.__code__):
            raise CommandError(f"problem() in {path} makes no valid problem: {sentence(error)}") from error
        raise UserError(error) from error
    if not isinstance(problem, Problem):
        raise CommandError(f"problem() in {path} should return a hesse.Problem but returned {type(problem)}.")
    return problem


def _moved(problem: Problem, device: torch.device | None, dtype: torch.dtype | None) -> Problem:
    """A problem of a model, moved and cast; the operator copies batches to the model's device by itself."""
    assert problem.model is not None
    problem.model.to(device=device, dtype=dtype)
    data = problem.data if dtype is None else Cast(problem.data, dtype, pairs=recognize(problem.loss) is not None)
    return dataclasses.replace(problem, inputs=None, data=data)


def _cast(inputs: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    def move(leaf: Tensor) -> Tensor:
        kind = leaf.dtype
        if dtype is not None:
            kind = dtype.to_complex() if kind.is_complex else dtype
        return leaf.detach().to(device=device, dtype=kind)

    return trees.map_tensors(move, inputs)


def _hint(options: list[str]) -> str:
    flags = " and ".join(f"--{option}" for option in options)
    keywords = ", ".join(f"{option}=None" for option in options)
    return (
        f"{flags} changed the inputs only, not the tensors that the function captures; if that is the reason, let"
        f" problem({keywords}) make them all."
    )
