"""A call of an operator whose arguments depend on something: its arguments by name, and their sets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Private: the type of an operator.
from torch._ops import OpOverload

from hesse._sparse.sets import Dependence, Sets


class Call:
    """What a rule is given.

    Attributes:
        name: the operator's name without overload, and without the underscore of one that writes in place.
        args: every argument by its name in the operator's schema, defaults included.
        results: the tensors that it returned, None where one is missing.
        sets: makes unions.
        read: the sets of a tensor, None if all are empty.
        is_constant: whether a tensor is the same at every point.
        connections: which entries of a function's result depend on which of its argument of a shape, as a matrix of
            coordinates; None where the function is not known.
    """

    def __init__(
        self,
        func: OpOverload,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        results: Sequence[Tensor | None],
        sets: Sets,
        read: Callable[[Tensor], Dependence | None],
        is_constant: Callable[[Tensor], bool],
        connections: Callable[[Callable[[Tensor], Tensor], Sequence[int]], Any],
    ) -> None:
        self.func, self.name, self.results, self.sets = func, plain_name(func), results, sets
        self.read, self.is_constant, self.connections = read, is_constant, connections
        self.written = written_arguments(func)
        self.args = _by_name(func, args, kwargs)

    @property
    def out(self) -> Tensor:
        """The first result."""
        out = self.results[0]
        assert out is not None
        return out

    def of(self, name: str) -> Dependence | None:
        """The sets of an argument, None if it has none."""
        value = self.args.get(name)
        return self.read(value) if isinstance(value, Tensor) else None

    def parts(self) -> list[Dependence]:
        """The sets of all arguments that have some, but of those that are only written."""
        values = [value for name, value in self.args.items() if name not in self.written or name == "self"]
        found = [self.read(tensor) for value in values for tensor in tensors_in(value)]
        return [part for part in found if part is not None]

    def nonzero(self, name: str) -> Tensor | None:
        """Which entries of an argument are not zero, if some are, and will be at every point."""
        value = self.args.get(name)
        # Written in place: no longer the value that was multiplied with.
        if not isinstance(value, Tensor) or name in self.written or not self.is_constant(value):
            return None
        is_nonzero = value.detach() != 0
        return None if bool(is_nonzero.all()) else is_nonzero

    def places(self, name: str) -> Any:
        """The coordinates of these entries, (dimensions, entries); of a sparse matrix those of all its entries."""
        value = self.args.get(name)
        if isinstance(value, Tensor) and value.layout != torch.strided:
            return value.detach().to_sparse(layout=torch.sparse_coo).coalesce().indices().cpu().numpy()
        is_nonzero = self.nonzero(name)
        return None if is_nonzero is None else is_nonzero.nonzero().T.cpu().numpy()


def names(text: str) -> frozenset[str]:
    """The names of operators in a text."""
    return frozenset(text.split())


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of an argument or result: itself, or those in lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple | dict):
        entries = value.values() if isinstance(value, dict) else value
        return [tensor for entry in entries for tensor in tensors_in(entry)]
    return []


@functools.cache
def plain_name(func: OpOverload) -> str:
    """The operator's name without namespace, overload and the underscore of one that writes in place."""
    name = func._schema.name.split("::")[1]
    return name[:-1] if name.endswith("_") else name


@functools.cache
def written_arguments(func: OpOverload) -> frozenset[str]:
    """The names of the arguments that an operator writes into."""
    return frozenset([a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write])


def _by_name(func: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    arguments = func._schema.arguments
    given = {argument.name: value for argument, value in zip(arguments, args, strict=False)} | kwargs
    return {a.name: given.get(a.name, a.default_value) for a in arguments}
