"""Units: a module's call as one twice differentiable step, which gathers the module's parameters within.

What autograd keeps of such a step is its inputs, and its own graph with the places of parameters instead of them; or
nothing but the inputs, and the module is called again. Either way parameters are whole in one unit at a time.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks

from hesse._autograd import graph
from hesse._autograd.agreement import coarsest, disagreement
from hesse._autograd.gradients import followed_gradients, gradients, memory_of, zeros_where_none
from hesse._base.batched_backward import as_a_whole
from hesse._data.draws import GeneratorState
from hesse._ranks.pieces import Share
from hesse._rules import scope

Gathered = Callable[[Sequence[Tensor]], list[Tensor]]
"""Whole parameters of the pieces of those that are variables; constants come last."""

Install = Callable[[Sequence[Tensor]], contextlib.AbstractContextManager[None]]
"""Within it the module has these parameters."""


class Apart(RuntimeError):
    """A module cannot be a unit, since tensors reach it, or leave it, otherwise than through its call.

    Attributes:
        key: the module's name.
    """

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"The parameters or activations of {self.key!r} are used outside of its forward."


class Absent(Tensor):
    """Stands for a parameter outside of its unit's call: it has a shape, a dtype and a device, and no numbers."""

    key: str
    place: torch.device

    @staticmethod
    def of(parameter: Tensor, key: str) -> Absent:
        """For a parameter of the unit ``key``."""
        made = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta").as_subclass(Absent)
        made.key, made.place = key, parameter.device
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Properties; no operation."""
        if func == Tensor.device.__get__ and hasattr(args[0], "place"):
            return args[0].place
        if getattr(func, "__name__", "") in _PROPERTIES:
            return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]  # no types there
        found = [entry.key for entry in args if isinstance(entry, Absent) and hasattr(entry, "key")]
        raise Apart(found[0] if found else "a module")


_PROPERTIES = {
    "__get__",
    "size",
    "stride",
    "dim",
    "numel",
    "is_floating_point",
    "is_complex",
    "__len__",
    "element_size",
}


class Weights:
    """Whole parameters of a kept graph, which are there in a pass over it only: the graph holds their places."""

    def __init__(self) -> None:
        self._wholes: list[Tensor] = []
        self._places: dict[int | None, int] = {}

    @contextlib.contextmanager
    def held(self, wholes: Sequence[Tensor]) -> Iterator[None]:
        """Within, what is saved for a backward is no whole parameter, and one that was saved is found here."""
        self._wholes = list(wholes)
        self._places = {memory_of(whole): place for place, whole in enumerate(wholes)}
        self._places.pop(None, None)
        try:
            with saved_tensors_hooks(self._pack, self._unpack):
                yield
        finally:
            self._wholes, self._places = [], {}

    def _pack(self, tensor: Tensor) -> Any:
        place = self._places.get(memory_of(tensor))
        return tensor if place is None else (place, tensor.shape, tensor.stride(), tensor.storage_offset())

    def _unpack(self, packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        place, *layout = packed
        found: Tensor = self._wholes[place].detach().as_strided(*layout)
        return found


class _Graph(NamedTuple):
    """Of one evaluation of a unit: outputs that autograd follows, and what they are followed to."""

    outputs: list[Tensor]
    inputs: list[Tensor]
    weights: Weights


class Unit:
    """One call of a module.

    Args:
        key: the module's name.
        share: what the evaluation counts.
        gather: gathers its parameters.
        install: puts them into the module.
        run: calls the module with other tensors for those of the arguments that autograd follows; returns the tensors
            of its output.
        count: how many pieces of variables come before these tensors.
        keeps: whether the evaluation's graph is kept, and not made again in each pass.
        note: told of the tensors that stand for arguments within.
    """

    def __init__(
        self,
        key: str,
        share: Share,
        gather: Gathered,
        install: Install,
        run: Callable[[Sequence[Tensor]], list[Tensor]],
        count: int,
        *,
        keeps: bool,
        note: Callable[[Sequence[Tensor]], None],
    ) -> None:
        self._key, self._share = key, share
        self._gather, self._install, self._run = gather, install, run
        self._count, self._keeps, self._note = count, keeps, note
        self._graph: _Graph | None = None
        self._outputs: list[Tensor] = []
        self._draws = None if keeps else GeneratorState()
        self._autocast: list[Any] = []

    def evaluated(self, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Call the module, as a step that autograd follows."""
        found: tuple[Tensor, ...] = Evaluate.apply(self, *arguments)  # type: ignore[no-untyped-call]  # no types there
        return found

    def begin(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """Call the module."""
        device = arguments[0].device.type
        self._autocast = [device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)]
        with self._evaluated(arguments) as made:
            found = [output.detach() for output in made.outputs]
        if self._keeps:
            self._graph = made
        else:
            self._outputs = found
        return found

    def roots(self) -> list[Tensor]:
        """Where the kept graph begins."""
        return self._graph.outputs if self._graph else []

    @contextlib.contextmanager
    def _evaluated(self, arguments: Sequence[Tensor]) -> Iterator[_Graph]:
        """The graph of an evaluation, within which the parameters are whole."""
        weights = Weights()
        with torch.enable_grad():
            inputs = [argument.detach().requires_grad_() for argument in arguments]
            self._note(inputs)
            wholes = self._gather(inputs[: self._count])
            with weights.held(wholes), self._install(wholes):
                try:
                    outputs = self._run(inputs[self._count :])
                except RuntimeError as error:
                    if "leaf Variable that requires grad" in str(error):  # what the module is given is written into
                        raise Apart(self._key) from error
                    raise
                known = {id(tensor) for tensor in inputs}
                if any(id(leaf) not in known for leaf in graph.leaves(outputs)):
                    raise Apart(self._key)
                with torch.set_grad_enabled(False):
                    yield _Graph(outputs, inputs, weights)

    @contextlib.contextmanager
    def _at_hand(self, arguments: Sequence[Tensor]) -> Iterator[_Graph]:
        """The kept graph, or one made again, with whole parameters."""
        if self._graph is None:
            assert self._draws is not None
            device, dtype, enabled = self._autocast
            with (
                self._draws.net,
                self._draws,
                torch.autocast(device, dtype, enabled),
                self._evaluated(arguments) as made,
            ):
                self._require_same(made.outputs)
                yield made
            return
        with torch.no_grad():
            wholes = [whole.requires_grad_() for whole in self._gather(self._graph.inputs[: self._count])]
        with self._graph.weights.held(wholes), self._install(wholes):
            yield self._graph

    def _require_same(self, outputs: Sequence[Tensor]) -> None:
        outputs = [output.detach() for output in outputs]
        if disagreement(outputs, self._outputs, precision=coarsest(outputs)) > 1:
            raise RuntimeError(
                f"A second call of {self._key!r} gives other outputs than the first, so there is no point that stays."
                " Take out what changes, or give more memory, so that it is called once."
            )

    def pull(self, arguments: Sequence[Tensor], cotangents: Sequence[Tensor], batched: bool) -> Sequence[Tensor | None]:
        """Cotangents of the arguments."""
        with self._at_hand(arguments) as made:
            return gradients(made.outputs, made.inputs, cotangents, retain_graph=self._keeps, batched=batched)

    def pull_to_multiply(
        self, arguments: Sequence[Tensor], cotangents: Sequence[Tensor]
    ) -> tuple[list[Tensor], _Graph | None]:
        """The same, and the graph of it, if graphs are kept."""
        with self._at_hand(arguments) as made:
            if self._keeps:
                pulled = _pulled(made, cotangents)
                return pulled.outputs, pulled
            found = gradients(made.outputs, made.inputs, cotangents)
            return list(zeros_where_none(found, made.inputs)), None

    def multiply(
        self,
        pulled: _Graph | None,
        arguments: Sequence[Tensor],
        cotangents: Sequence[Tensor],
        tangents: Sequence[Tensor],
        batched: bool,
    ) -> Sequence[Tensor | None]:
        """The derivative of ``pull``: cotangents of its cotangents and arguments, of tangents of its results."""
        with self._at_hand(arguments) as made:
            if pulled is None:
                held, self._share.is_idle = scope.once_more(True), True
                try:
                    pulled = _pulled(made, cotangents)
                finally:
                    self._share.is_idle = False
                    scope.once_more(held)
            return gradients(pulled.outputs, pulled.inputs, tangents, retain_graph=self._keeps, batched=batched)


def _pulled(made: _Graph, cotangents: Sequence[Tensor]) -> _Graph:
    """Cotangents of an evaluation's inputs as a graph, with the cotangents of its outputs among its own inputs."""
    with torch.enable_grad():
        given = [cotangent.detach().requires_grad_() for cotangent in cotangents]
        found = followed_gradients(made.outputs, made.inputs, given)
        return _Graph(list(zeros_where_none(found, made.inputs)), [*given, *made.inputs], made.weights)


class Evaluate(Function):
    """A unit's outputs, as a function of its pieces and arguments."""

    @staticmethod
    def forward(ctx: Any, unit: Unit, *arguments: Tensor) -> tuple[Tensor, ...]:
        """The outputs."""
        ctx.unit, ctx.hesse_inner_roots = unit, unit.roots
        ctx.save_for_backward(*arguments)
        return tuple(unit.begin(arguments))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """Cotangents of the arguments."""
        arguments = ctx.saved_tensors
        if not torch.is_grad_enabled():
            # Vectors of a batch share what is gathered.
            return (None, *as_a_whole(functools.partial(ctx.unit.pull, arguments), cotangents))
        given = (*cotangents, *arguments)
        pulled: tuple[Tensor, ...] = Pull.apply(ctx.unit, len(cotangents), *given)  # type: ignore[no-untyped-call]  # no types there
        return (None, *pulled)


class Pull(Function):
    """The backward of :class:`Evaluate`, as a function of its cotangents and arguments."""

    @staticmethod
    def forward(ctx: Any, unit: Unit, count: int, *given: Tensor) -> tuple[Tensor, ...]:
        """Cotangents of the arguments."""
        found, pulled = unit.pull_to_multiply(given[count:], given[:count])
        ctx.unit, ctx.count, ctx.pulled = unit, count, pulled
        ctx.hesse_inner_roots = lambda: [] if pulled is None else pulled.outputs
        ctx.save_for_backward(*given)
        return tuple([entry.detach() for entry in found])

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor) -> tuple[Tensor | None, ...]:
        """Cotangents of both."""
        if torch.is_grad_enabled():
            raise NotImplementedError("A sharded model has no third derivatives here.")
        given, count = ctx.saved_tensors, ctx.count
        multiply = functools.partial(ctx.unit.multiply, ctx.pulled, given[count:], given[:count])
        return (None, None, *as_a_whole(multiply, tangents))
