"""``StoredGraph``: a graph as text, for what a saved program compiles later; traced again where it is needed."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import torch

_GLOBALS: dict[str, Any] = {
    "torch": torch,
    "device": torch.device,
    "inf": math.inf,
    "nan": math.nan,
    "NoneType": type(None),
}
# Named in the code of every graph; where they are used, the code holds their names and a dot.
_UNUSED = {"fx_pytree": "fx_pytree.", "pytree": "pytree."}
# Operators of others may change while their names do not.
_OPERATORS = {"aten", "prims", "hesse", "mkldnn", "inductor"}


class Input(NamedTuple):
    """An input of a graph: its name and layout; dtype and device as PyTorch writes them."""

    name: str
    shape: list[int]
    stride: list[int]
    dtype: str
    device: str


class StoredGraph(NamedTuple):
    """The Python code of a graph, and its inputs."""

    code: str
    inputs: list[Input]

    @staticmethod
    def of(graph: Any) -> StoredGraph | None:
        """A graph of torch.fx as text; None where its code names objects that text cannot hold."""
        if isinstance(graph, StoredGraph):
            return graph
        written = graph.graph.python_code("self")
        unknown = [name for name in written.globals if name not in _GLOBALS and name not in _UNUSED]
        if unknown or "self." in written.src or any(use in written.src for use in _UNUSED.values()):
            return None
        if set(re.findall(r"torch\.ops\.(\w+)", written.src)) - _OPERATORS:
            return None
        nodes = [node for node in graph.graph.nodes if node.op == "placeholder"]
        inputs = []
        for node in nodes:
            value = node.meta["val"]
            place = str(node.target), list(value.shape), list(value.stride()), str(value.dtype), str(value.device)
            inputs.append(Input(*place))
        return StoredGraph(written.src, inputs)

    def restored(self) -> Any:
        """The graph, traced from its code."""
        from torch.fx.experimental.proxy_tensor import make_fx

        from hesse._linearize.program.graph import name_inputs
        from hesse._linearize.program.stand_ins import new_mode
        from hesse._linearize.program.undisturbed import tracing, undisturbed

        namespace = dict(_GLOBALS)
        exec(self.code, namespace)
        mode = new_mode()
        mode.cache_enabled = True
        with tracing, undisturbed(), mode:
            given = [
                torch.empty_strided(entry.shape, entry.stride, dtype=dtype_of(entry.dtype), device=entry.device)
                for entry in self.inputs
            ]
            graph = make_fx(lambda *given: list(namespace["forward"](None, *given)))(*given)
        name_inputs(graph, [entry.name for entry in self.inputs])
        return graph


def dtype_of(name: str) -> torch.dtype:
    """The dtype that PyTorch writes so."""
    found = getattr(torch, name.removeprefix("torch."))
    assert isinstance(found, torch.dtype)
    return found
