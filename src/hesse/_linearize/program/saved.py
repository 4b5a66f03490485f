"""Programs on the disk, found by another process without a capture.

A file holds text and the constants: graphs and the code around compiled kernels, layouts and names as JSON. The kernels
are Inductor's, on its own part of the disk, and known by their digests.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from hesse._base import saved_files
from hesse._base.errors import warn_caller
from hesse._linearize.clear_saved_programs import SUFFIX
from hesse._linearize.program.code_that_ran import Name, Ran, function_named
from hesse._linearize.program.dependences import Unknown, digest
from hesse._linearize.program.environment import DIGEST, digest_of_bytes, environment
from hesse._linearize.program.parts import Parts, Replay, Which
from hesse._linearize.program.program import Program
from hesse._linearize.program.stored_graph import Input, StoredGraph, dtype_of
from hesse._linearize.program.surroundings import Layout, Surroundings, layout, settings
from hesse._linearize.program.wrapper import Kernel, Wrapper
from hesse._linearize.protocol import Direction, Leaves, Map

_MOST_CONSTANTS = 16 * 2**20
_TYPES = {kind.__name__: kind for kind in (Tensor, torch.nn.Parameter, torch.nn.Buffer)}


class Origin:
    """The file of a program, and what the program depends on.

    Args:
        name: of the file.
        reached: the code of functions that are in the name.

    Attributes:
        ran: what runs while the program is captured is noted here.
        is_found: whether the program was read from the file.
    """

    def __init__(self, name: str, reached: Sequence[CodeType]) -> None:
        self.name = name
        self.ran = Ran()
        self.is_found = False
        self._reached = reached
        self._saved: set[Any] = set()

    def found(
        self, point: Leaves, surroundings: Surroundings, backend: Callable[[], Any]
    ) -> tuple[Program, list[Tensor]] | None:
        """The saved program and its inputs at a point, where it is there, serves it, and its code is what it was."""
        content = saved_files.read(self.name)
        if content is None:
            return None
        try:
            body = content[DIGEST:]
            if digest_of_bytes(body).encode() != content[:DIGEST]:
                raise ValueError
            (length,) = [int.from_bytes(body[:8], "little")]
            saved = json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["program"])
            constants = safetensors.torch.load(body)
        except Exception:
            warn_caller(f"The saved program {self.name} is damaged, so the function is captured again.")
            return None
        try:
            names = [(module, name) for module, name in saved["ran"]]
            if _digest_of(names) != saved["ran_digest"]:
                return None
            parts = _parts(saved, [constants[str(i)] for i in range(len(constants))])
            program = Program(parts, surroundings.plain, backend, 0.0)
            for which, wrapper in saved["runs"].items():
                code, externs, kernels = wrapper
                run = Wrapper(code, externs, [Kernel(*kernel) for kernel in kernels]).loaded()
                if which == "first":
                    program.first = run
                else:
                    program.runs[which, None], program.shared[which, None] = run, saved["shared"][which]
        except (OSError, ImportError, AttributeError, Unknown):
            return None  # kernels or functions are not there
        inputs = program.inputs(point, surroundings)
        if inputs is None:
            return None
        program.saved_seconds = saved["seconds"]
        self.is_found, self._saved = True, _compiled(program)
        self._names, self._ran_digest = names, saved["ran_digest"]
        return program, inputs

    def save(self, program: Program) -> None:
        """Save a program that was compared with the tape, where it holds more than was saved and all of it is known."""
        compiled = _compiled(program)
        if compiled == self._saved:
            return
        self._saved = compiled
        try:
            if not self.is_found:
                self._names = self.ran.names(self._reached)
                self._ran_digest = _digest_of(self._names)
            saved = _saved(program)
        except Unknown:
            return
        saved |= {"ran": self._names, "ran_digest": self._ran_digest, "seconds": program.price}
        constants = {str(i): tensor.contiguous() for i, tensor in enumerate(program.parts.constants)}
        body = safetensors.torch.save(constants, {"program": json.dumps(saved)})
        saved_files.write(self.name, digest_of_bytes(body).encode() + body)

    def discard(self) -> None:
        """Remove the file of a program that is not right."""
        saved_files.remove(self.name)


def origin_of(
    map: Map, func: Any, reads: Any, arguments: Any, point: Leaves, directions: Sequence[Direction], most: int | None
) -> Origin | None:
    """Where the program of a map is saved; None where programs are not, or a dependence cannot be compared."""
    if saved_files.folder() is None or not all(leaf.device.type == "cpu" for leaf in point):
        return None
    try:
        found = digest([("", func), ("reads", reads), ("arguments", arguments), ("map", map)])
        layouts = [tuple(_layout_to_save(layout(leaf))) for leaf in point]
        key = repr((found.text, layouts, tuple(directions), most, settings(), environment()))
    except Unknown:
        return None
    # Without the functions, which would keep alive what they read.
    return Origin(digest_of_bytes(key.encode()) + SUFFIX, [function.__code__ for function in found.functions])


def _layout_to_save(layout: Layout) -> list[Any]:
    shape, stride, dtype, device, requires_grad, kind = layout
    return [list(shape), list(stride), str(dtype), str(device), requires_grad, kind.__name__]


def _layout(saved: list[Any]) -> Layout:
    shape, stride, dtype, device, requires_grad, kind = saved
    return torch.Size(shape), tuple(stride), dtype_of(dtype), torch.device(device), requires_grad, _TYPES[kind]


def _compiled(program: Program) -> set[Any]:
    return {which for which, count in program.runs if count is None} | ({"first"} if program.first else set())


def _saved(program: Program) -> dict[str, Any]:
    """A program as JSON.

    Raises:
        Unknown: text cannot hold it.
    """
    parts = program.parts
    if parts.draws or parts.changed or parts.followed or parts.known is not None:
        raise Unknown("a function that draws, changes tensors or reads values")
    if any(device.type != "cpu" or kind not in _TYPES.values() for *_, device, _, kind in parts.layouts):
        raise Unknown("tensors that are not on the CPU")
    kept = [constant.layout == torch.strided and constant.device.type == "cpu" for constant in parts.constants]
    if not all(kept) or sum(constant.nbytes for constant in parts.constants) > _MOST_CONSTANTS:
        raise Unknown("constants")
    runs = {which: program.runs[which, None] for which, count in program.runs if count is None}
    num_aux = parts.num_first - parts.num_outputs - parts.has_exception
    slots: list[Any] = [_Slot(i) for i in range(num_aux)]
    return {
        "captured": parts.captured,
        "layouts": [_layout_to_save(layout) for layout in parts.layouts],
        "numbers": [list(parts.variables), parts.num_added, parts.num_first, parts.num_outputs, parts.has_exception],
        "precision": str(parts.precision),
        "aux": _structure(parts.rebuild_aux(slots)),
        "first": _graph_to_save(parts.first),
        "replays": {
            which: [
                _graph_to_save(part.graph),
                part.kept,
                part.vectors,
                [[list(stand_in.shape), str(stand_in.dtype)] for stand_in in part.stand_ins],
            ]
            for which, part in parts.replays.items()
        },
        "runs": {which: _wrapper(run) for which, run in ({"first": program.first} | runs).items() if run is not None},
        "shared": {which: program.shared[which, None] for which in runs},
    }


def _parts(saved: dict[str, Any], constants: list[Tensor]) -> Parts:
    variables, num_added, num_first, num_outputs, has_exception = saved["numbers"]
    replays: dict[Which, Replay] = {
        which: Replay(_graph(graph), kept, vectors, [_small(*stand_in) for stand_in in stand_ins])
        for which, (graph, kept, vectors, stand_ins) in saved["replays"].items()
    }
    return Parts(
        first=_graph(saved["first"]),
        replays=replays,
        names={},
        captured=[tuple(names) for names in saved["captured"]],
        layouts=[_layout(entry) for entry in saved["layouts"]],
        constants=constants,
        known=None,
        positions=[None] * len(constants),
        expected=[],
        variables=tuple(variables),
        followed=[],
        reached=[],
        changed=[],
        num_added=num_added,
        num_first=num_first,
        num_outputs=num_outputs,
        rebuild_aux=functools.partial(_rebuilt, saved["aux"]),
        has_exception=has_exception,
        draws=[],
        precision=dtype_of(saved["precision"]),
    )


class _Slot:
    """Stands where a tensor of an auxiliary output does."""

    def __init__(self, position: int) -> None:
        self.position = position


def _structure(value: Any) -> Any:
    """An auxiliary output as JSON."""
    if isinstance(value, _Slot):
        return ["tensor", value.position]
    if value is None or type(value) in (bool, int, float, str):
        return ["value", value]
    if type(value) in (tuple, list):
        return [type(value).__name__, [_structure(entry) for entry in value]]
    if isinstance(value, tuple) and hasattr(value, "_fields") and type(value).__module__.startswith("hesse."):
        return ["named", [type(value).__module__, type(value).__name__, [_structure(entry) for entry in value]]]
    if type(value) is dict and all(type(key) is str for key in value):
        return ["dict", {key: _structure(entry) for key, entry in value.items()}]
    raise Unknown("an auxiliary output of a kind of its own")


def _rebuilt(structure: Any, tensors: Sequence[Tensor]) -> Any:
    kind, held = structure
    if kind in ("tensor", "value"):
        return tensors[held] if kind == "tensor" else held
    if kind == "named":
        module, name, entries = held
        made = getattr(sys.modules[module], name)
        return made(*[_rebuilt(entry, tensors) for entry in entries])
    if kind == "dict":
        return {key: _rebuilt(entry, tensors) for key, entry in held.items()}
    return (tuple if kind == "tuple" else list)(_rebuilt(entry, tensors) for entry in held)


def _graph_to_save(graph: Any) -> StoredGraph:
    stored = StoredGraph.of(graph)
    if stored is None:
        raise Unknown("a graph that holds objects")
    return stored


def _graph(saved: list[Any]) -> StoredGraph:
    code, inputs = saved
    return StoredGraph(code, [Input(*entry) for entry in inputs])


def _wrapper(run: Any) -> Wrapper:
    wrapper = Wrapper.of(run)
    if wrapper is None:
        raise Unknown("code that needs the compiler")
    return wrapper


def _small(shape: list[int], dtype: str) -> Tensor:
    """A tensor of that shape, in the memory of one number."""
    return torch.zeros((), dtype=dtype_of(dtype), device="cpu").expand(shape)


def _digest_of(names: Sequence[Name]) -> str:
    """Of the functions of these names, and all that they reach."""
    found = [(f"{module}:{name}", function_named(module, name)) for module, name in names]
    if any(function is None for _, function in found):
        raise Unknown("a function that is not there")
    return digest(found).text
