"""Evaluate a function again without a trace: what it draws, writes and counts is put back afterwards."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from hesse._autograd import copying, objects
from hesse._autograd.blueprint import Blueprint
from hesse._autograd.captured import reach, reached, same
from hesse._autograd.generators import KINDS, global_generators, is_own, put_back
from hesse._base import trees
from hesse._base.devices import default_generators


@contextlib.contextmanager
def preserved(func: Callable[..., Any], inputs: Any) -> Iterator[None]:
    """Within it ``func`` may be evaluated; afterwards everything is as it was, as far as :class:`State` goes."""
    state = State(func, inputs)
    try:
        yield
    finally:
        state.restore()


class Spared:
    """A model that evaluations leave alone, since they use copies: another thread may train it meanwhile."""

    module: torch.nn.Module


class State:
    """Everything that an evaluation may change, as it is when this is made; ``restore()``, once or often, puts it back.

    That is: the random generators of PyTorch, NumPy and Python and those that ``func`` captures; the values and the
    ``.grad`` of the inputs and of captured tensors, bit for bit; what modules hold, and their training mode. Keeps a
    copy of those tensors. What ``func`` does to other Python objects, files or the screen stays.
    """

    def __init__(self, func: Callable[..., Any], inputs: Any) -> None:
        modules = {id(part): part for _, module in reached(func, torch.nn.Module) for part in module.modules()}
        alone = _spared(func)
        modules = {key: module for key, module in modules.items() if key not in alone}
        blueprint = Blueprint(*modules.values())
        found = [leaf for leaf in trees.leaves(inputs) if isinstance(leaf, Tensor)]
        # Lazy parameters and tensors on the meta device have no numbers.
        beside = [
            *[tensor for _, tensor in reached(func, Tensor)],
            *map(blueprint.tensors.__getitem__, blueprint.plain),
        ]
        found += [tensor for tensor in beside if not (is_lazy(tensor) or tensor.is_meta)]
        distinct = list({id(tensor): tensor for tensor in found if id(tensor) not in alone}.values())
        self._values = [Values(tensor) for tensor in distinct]
        # First which tensors a module holds, and then their values.
        # Where a release has no such name, kept points say that they are stale.
        counters = getattr(torch.autograd, "_unsafe_preserve_version_counter", contextlib.nullcontext)
        self._versions = counters(tuple([tensor for tensor in distinct if not tensor.is_inference()]))
        self._restorers = [
            *_generators(func),
            Held(blueprint.nodes).restore,
            *[_training(module) for module in modules.values()],
            *[values.restore for values in self._values],
            *[_grad(tensor) for tensor in distinct if tensor.is_leaf],
        ]

    def restore(self) -> None:
        """Put everything back."""
        for restore in self._restorers:
            restore()
        # The numbers are what they were, so graphs and points made of them hold.
        self._versions.__exit__(None, None, None)

    def written(self) -> list[Tensor]:
        """The tensors that hold other numbers now."""
        return [values.tensor for values in self._values if values.has_changed()]


def _spared(func: Callable[..., Any]) -> set[int]:
    """By identity, modules and tensors that are left alone."""
    found = [value for _, spared in reached(func, Spared) for _, value in reach(spared)]
    modules = {id(part): part for module in found if isinstance(module, torch.nn.Module) for part in module.modules()}
    held = Blueprint(*modules.values())
    return {id(thing) for thing in [*found, *held.nodes, *held.tensors]}


def _generators(func: Callable[..., Any]) -> Iterator[Callable[[], object]]:
    yield from map(put_back, [*default_generators(), *global_generators()])
    yield from (put_back(rng) for kind in KINDS for _, rng in reached(func, kind) if is_own(rng))


class Values:
    """The numbers in a tensor, copied."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._mode = torch.inference_mode if tensor.is_inference() else torch.no_grad
        with self._mode():
            self._copy = tensor.detach().clone()

    def has_changed(self) -> bool:
        """Whether the tensor holds others now."""
        now = self.tensor.detach()
        return now.shape != self._copy.shape or not same(now, self._copy)

    def restore(self) -> None:
        """Put them back."""
        # A write of the same numbers would still count as a change, and make kept operators stale.
        if self.has_changed():
            with self._mode():
                self.tensor.data.copy_(self._copy)


def _grad(tensor: Tensor) -> Callable[[], None]:
    grad = tensor.grad
    values = None if grad is None else Values(grad)

    def restore() -> None:
        if tensor.grad is not grad:
            tensor.grad = grad
        if values is not None:
            values.restore()

    return restore


def _training(module: torch.nn.Module) -> Callable[[], None]:
    training = module.training

    def restore() -> None:
        if module.training is not training:
            module.training = training

    return restore


class Held:
    """What modules, containers and plain objects hold, by identity; ``restore`` puts it back."""

    def __init__(self, holders: Iterable[Any]) -> None:
        tables: dict[int, Any] = {}
        self._slots: list[tuple[Any, dict[str, Any]]] = []
        self._cells: list[tuple[types.CellType, Any]] = []
        for holder in holders:
            if isinstance(holder, types.CellType):
                with contextlib.suppress(ValueError):  # one that is not filled yet
                    self._cells.append((holder, holder.cell_contents))
            tables |= {id(table): table for table in _tables(holder)}
            if objects.has_slots(holder):
                self._slots.append((holder, objects.slots_of(holder)))
        self._contents = [(table, copying.Contents(table)) for table in tables.values()]

    def restore(self) -> None:
        """Put everything back that is another object now."""
        for table, contents in self._contents:
            contents.put_back(table)
        for cell, content in self._cells:
            cell.cell_contents = content
        for holder, held in self._slots:
            objects.put_back_slots(holder, held)


def _tables(holder: Any) -> Iterator[Any]:
    """The containers that hold what something holds."""
    if isinstance(holder, objects.CONTAINERS):
        yield holder
        return
    attributes = objects.table_of(holder)
    if attributes is not None:
        yield attributes
    if isinstance(holder, torch.nn.Module):
        yield from (table for table in objects.tables_of(vars(holder)) if isinstance(table, objects.CONTAINERS))
