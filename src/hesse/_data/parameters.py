"""The parameters of a model that an operator is about, and the model evaluated with others in their place."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hesse._autograd.captured import same

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
    if callable(params):
        return {id(parameter) for key, parameter in everything if params(key, parameter)}
    if isinstance(params, Iterable):
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


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Model:
    """A model that is evaluated with tracked tensors for its chosen parameters, and otherwise left as it is.

    Parameters that are not chosen, or require no gradients, are constants. Buffers are copies, so that what a
    layer writes into them (BatchNorm its averages) does not reach the model.
    """

    def __init__(self, model: nn.Module, chosen: dict[str, nn.Parameter]) -> None:
        self.module = model
        self.chosen = chosen
        self._within = _Within(model)
        names: dict[int, list[str]] = {}
        for key, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(f"module.{key}")
        # Under all names of each, so that functional_call need not look for tied ones at each evaluation. Those that
        # require no gradients stay in their place, and their derivatives come out as zeros.
        self._names = [names[id(parameter)] if parameter.requires_grad else [] for parameter in chosen.values()]
        # The same tensors in each evaluation, which is how a program knows them.
        self.constants = {
            name: constant
            for key, parameter in model.named_parameters()
            if key not in chosen and parameter.requires_grad
            for constant in [parameter.detach()]
            for name in names[id(parameter)]
        }
        # Whether an evaluation writes into buffers, as BatchNorm in training does; found out at the first.
        self._writes: bool | None = None
        self._modes = self._training()

    def run(self, x: Sequence[Tensor], thunk: Callable[[], Any]) -> Any:
        """``thunk()`` while the model's chosen parameters are ``x``."""
        state: dict[str, Tensor] = dict(self.constants)
        for names, tensor in zip(self._names, x, strict=True):
            state.update(dict.fromkeys(names, tensor))
        copies: dict[int, tuple[Tensor, Tensor]] = {}
        for key, buffer in self.module.named_buffers(remove_duplicate=False):
            if id(buffer) not in copies:
                copies[id(buffer)] = buffer, buffer.clone()
            state[f"module.{key}"] = copies[id(buffer)][1]
        result = torch.func.functional_call(self._within, state, (thunk,), tie_weights=False)
        # A stand-in, of which a program is captured, has no values to compare.
        if self._writes is None and all([type(copy) is Tensor for _, copy in copies.values()]):
            self._writes = not all([same(buffer, copy) for buffer, copy in copies.values()])
        return result

    @property
    def is_pure(self) -> bool:
        """Whether evaluations write into no buffer, which the first one has shown."""
        return self._writes is False

    def replay(self, x: Sequence[Tensor], thunk: Callable[[], Any]) -> Any:
        """``thunk()``, a backward; a checkpoint in it evaluates layers again, which must not write into buffers."""
        return thunk() if self._writes is False else self.run(x, thunk)

    def has_changed_mode(self) -> bool:
        """Whether a layer was switched between training and evaluation since this was made."""
        return self._training() != self._modes

    def _training(self) -> list[bool]:
        return [module.training for module in self.module.modules()]

    def batch_statistics(self) -> str | None:
        """The name of a layer that normalizes by statistics of the whole batch, or None."""
        for key, module in self.module.named_modules():
            if isinstance(module, _BATCH_NORMS) and (module.training or module.running_mean is None):
                return f"{key or 'the model itself'} ({type(module).__name__})"
        return None

    def device(self) -> torch.device | None:
        """Where the model is, or None where it is on several devices and places tensors itself."""
        devices = {tensor.device for tensor in [*self.module.parameters(), *self.module.buffers()]}
        return devices.pop() if len(devices) == 1 else None


class _Within(nn.Module):
    """Runs anything while a module's parameters are replaced, which ``functional_call`` offers for a forward only."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, thunk: Callable[[], Any]) -> Any:
        return thunk()
