"""One evaluation under observation: what cuts it off, what is custom, compiled or kinked in it, and at which line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from torch import Tensor
from torch.autograd.graph import Node

from hesse._autograd import graph
from hesse._autograd.cuts import Cut, Cuts, in_order
from hesse._autograd.evaluation import differentiate
from hesse._autograd.gradients import gradients
from hesse._autograd.provenance import Frame, frames_of, lines_kept, operator_name, origin
from hesse._checking.calls import tensors
from hesse._checking.subject import Subject

# Beginnings of the names of nodes whose operators have kinks or jumps in their derivatives.
_KINKED = (
    *("Abs", "AdaptiveMaxPool", "Amax", "Amin", "Cdist", "Celu", "Clamp", "Cummax", "Cummin", "Dist", "Elu"),
    *("FractionalMaxPool", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Huber", "Hypot", "Kthvalue"),
    *("LeakyRelu", "LinalgVectorNorm", "MarginRanking", "Max", "Median", "Min", "MultiMargin", "MultilabelMargin"),
    *("Norm", "Pdist", "PreluKernel", "Prelu", "Relu", "Rrelu", "SmoothL1", "Softshrink", "Sort", "Std"),
    *("Threshold", "Topk", "Where"),
)


def is_kinked(operator: str) -> bool:
    """Whether a function of PyTorch, such as ``torch.relu``, has kinks or jumps in its derivatives."""
    name = operator.removeprefix("torch.").replace("_", "").lower()
    return operator.startswith("torch.") and name.startswith(tuple([kinked.lower() for kinked in _KINKED]))


class Place(NamedTuple):
    """An operator and the user's line that called it."""

    operator: str
    frame: Frame | None


class Observation(NamedTuple):
    """What one evaluation shows.

    Attributes:
        cuts: on the way from the inputs to the output.
        numbers: tensors made into Python numbers.
        branches: where values decide what Python does.
        kinks: operators that are not smooth everywhere.
        compiled: functions of torch.compile in the graph.
        rules: operators that hesse's own rules differentiated.
        num_nodes: size of the autograd graph.
    """

    cuts: list[Cut]
    numbers: list[Cut]
    branches: list[Cut]
    kinks: list[Place]
    compiled: list[Place]
    rules: list[Place]
    num_nodes: int


def observe(subject: Subject) -> Observation:
    """Evaluate in anomaly mode, so that each node of the graph knows its line; and again, to follow values."""

    def graph_of(x: tuple[Tensor, ...]) -> Observation:
        outputs = _output(subject, x)
        nodes = graph.nodes(outputs)
        compiled = _places(nodes, _is_compiled)
        kinks = _places(nodes, lambda node: graph.name_of(node).startswith(_KINKED))
        return Observation([], [], [], kinks, compiled, [] if compiled else _rules(outputs, x), len(nodes))

    def values(x: tuple[Tensor, ...]) -> Observation:
        with Cuts(x) as cuts:
            outputs = _output(subject, x)
        before = cuts.before(outputs[0]) if outputs else ()
        return observed._replace(
            cuts=in_order(before), numbers=in_order(cuts.numbers), branches=in_order(cuts.branches)
        )

    observed: Observation
    with subject.preserved(), lines_kept():
        observed = differentiate(graph_of, subject.leaves, False)
    if not observed.compiled:  # torch.compile would try to compile whatever follows values
        with subject.preserved():
            observed = differentiate(values, subject.leaves, False)
    return observed


def _output(subject: Subject, x: tuple[Tensor, ...]) -> list[Tensor]:
    """The output as it comes: what is wrong with it is found out elsewhere."""
    returned = subject.point.call(x)
    return tensors(returned[0] if subject.has_aux and isinstance(returned, tuple) and returned else returned)[:1]


def _rules(outputs: Sequence[Tensor], x: Sequence[Tensor]) -> list[Place]:
    try:
        gradient = gradients([output.sum() for output in outputs], x, create_graph=True)
    # Why it cannot be differentiated is found out elsewhere.
    except Exception:
        return []
    made = [entry for entry in gradient if entry is not None]
    return _places(graph.nodes(made), lambda node: _custom_module(node).startswith("hesse._rules"))


def _custom_module(node: Node) -> str:
    """Where the class of a custom function stands, for its node; nothing for other nodes."""
    return getattr(getattr(type(node), "_forward_cls", None), "__module__", "")


def _places(nodes: Iterable[Node], wanted: Callable[[Node], bool]) -> list[Place]:
    return list(dict.fromkeys([place_of(node) for node in nodes if wanted(node)]))


def place_of(node: Node) -> Place:
    """The forward operator that a node made in anomaly mode comes from, and the user's line that called it."""
    forward = origin(node)
    frames = frames_of(forward)
    if len(frames) > 1 and _is_compiled(forward):
        # The innermost is the compiled function itself.
        frames = frames[1:]
    return Place(operator_name(graph.name_of(forward)), frames[0] if frames else None)


def _is_compiled(node: Node) -> bool:
    return "CompiledFunction" in graph.name_of(node)
