"""The parameters of a model that an operator is about."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

Params = str | nn.Module | nn.Parameter | Callable[[str, nn.Parameter], bool] | Iterable[Any] | None
"""None for all that require gradients; a name, a glob or the name of a layer; a layer or a parameter itself; a
predicate of name and parameter; or a list of any of these."""


def select(model: nn.Module, params: Params, name: str) -> dict[str, nn.Parameter]:
    """The parameters that ``params`` chooses, each once, by the first of its names, in the model's order.

    Raises:
        ValueError: none is chosen, or one is not initialized yet.
    """
    chosen = _ids(model, params, name)
    found = {key: parameter for key, parameter in model.named_parameters() if id(parameter) in chosen}
    if not found:
        raise ValueError(_none_found(model, params, name))
    for key, parameter in found.items():
        if nn.parameter.is_lazy(parameter):
            raise ValueError(
                f"The parameter {key!r} given to {name} is not initialized yet. Run the model once before."
            )
    return found


def _ids(model: nn.Module, params: Params, name: str) -> set[int]:
    # Under all its names, so that a tied weight is found by each of them.
    everything = list(model.named_parameters(remove_duplicate=False))
    if params is None:
        return {id(parameter) for _, parameter in everything if parameter.requires_grad}
    if isinstance(params, nn.Parameter):
        return {id(params)}
    if isinstance(params, nn.Module):
        return {id(parameter) for parameter in params.parameters()}
    if isinstance(params, str):
        return {id(parameter) for key, parameter in everything if matching(key, params)}
    if callable(params) and not isinstance(params, type):
        return {id(parameter) for key, parameter in everything if params(key, parameter)}
    if isinstance(params, Iterable) and not isinstance(params, Tensor | bytes):
        parts = [(part, _ids(model, part, name)) for part in params]
        for part, ids in parts:
            if not ids:
                raise ValueError(_none_found(model, part, name))
        return set().union(*[ids for _, ids in parts])
    raise TypeError(
        f"params given to {name} should be None, a name or glob, a layer, a predicate of name and parameter, or a list"
        f" of these but has type {type(params)}."
    )


def matching(name: str, pattern: str) -> bool:
    """Whether a parameter is meant by a name, a glob (whose ``*`` takes in dots), or the name of a layer above it."""
    return fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


def _none_found(model: nn.Module, params: Any, name: str) -> str:
    names = [key for key, _ in model.named_parameters()]
    if not names:
        return f"The model given to {name} has no parameters."
    if params is None:
        return f"The model given to {name} has no parameter that requires gradients. Name some with params=."
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    what = repr(params) if isinstance(params, str) else f"the {type(params).__name__} given as params"
    return f"No parameter of the model given to {name} matches {what}: it has {shown}."
