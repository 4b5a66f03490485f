"""Where infinities and NaNs come from: the first call, or the first node of a backward, that makes one of none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from hesse._autograd import graph
from hesse._autograd.evaluation import differentiate
from hesse._autograd.gradients import gradients
from hesse._autograd.provenance import calling_frame, lines_kept
from hesse._checking.calls import tensors
from hesse._checking.observing import Place, place_of
from hesse._checking.subject import Leaves, Subject


def first_call(subject: Subject) -> Place | None:
    """The first call of an evaluation that makes what the value is, NaN or infinite, of arguments that are not."""
    with subject.preserved():
        value = subject.evaluate().value
        first = _First(torch.isnan if bool(value.isnan().any()) else torch.isinf)
        subject.advance(scope=lambda: first)
    return first.found


def first_node(subject: Subject, vector: Leaves | None) -> Place | None:
    """The operator whose derivative makes the first infinity or NaN of the gradient, or of vᵀH for a ``vector``."""

    def body(x: tuple[Tensor, ...]) -> Place | None:
        output = subject.output(x, contextlib.nullcontext)
        if vector is None:
            return _first_of(graph.nodes([output]), lambda: gradients([output], x))
        gradient = gradients([output], x, create_graph=True)
        made = [entry for entry in gradient if entry is not None]
        return _first_of(graph.nodes(made), lambda: gradients(gradient, x, vector))

    with subject.preserved(), lines_kept():
        place: Place | None = differentiate(body, subject.leaves, False)
    return place


def _first_of(nodes: Iterable[Node], backward: Any) -> Place | None:
    watched, bad = list(nodes), []

    def hook(position: int) -> Any:
        # The hook holds a number and no node: with the node it would keep itself alive.
        def look(grad_inputs: Sequence[Tensor | None], grad_outputs: Sequence[Tensor | None]) -> None:
            if _sound(grad_outputs) and not _sound(grad_inputs):
                bad.append(position)

        return look

    handles = [node.register_hook(hook(position)) for position, node in enumerate(watched)]
    try:
        backward()
    finally:
        for handle in handles:
            handle.remove()
    return place_of(watched[bad[0]]) if bad else None


def _sound(entries: Sequence[Tensor | None]) -> bool:
    return all([bool(entry.isfinite().all()) for entry in entries if entry is not None])


class _First(TorchFunctionMode):
    def __init__(self, bad: Any) -> None:
        super().__init__()
        self._bad = bad
        self.found: Place | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        sound = self.found is None and not self._any(args) and not self._any(kwargs)
        result = func(*args, **(kwargs or {}))
        if sound and self._any(result):
            self.found = Place(getattr(func, "__name__", str(func)), calling_frame())
        return result

    def _any(self, tree: Any) -> bool:
        return any([bool(self._bad(tensor).any()) for tensor in tensors(tree) if tensor.dtype.is_floating_point])
