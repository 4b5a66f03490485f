"""``torch.func.linearize``: inside of hesse its tangents are computed by forward mode at each call.

PyTorch traces the tangent and folds what does not depend on it into constants, which are cut off from the variables: a
derivative by the point of the linearization is left out, without a word. Here the trace is a graph of one step, which
evaluates the function again. Nothing can be folded then, and forward mode is differentiated like any other operations.

Source: the sources of torch._functorch.eager_transforms.linearize
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch import eager_transforms
from torch.fx.experimental.proxy_tensor import make_fx

from hesse._base.errors import NoDerivativeError
from hesse._base.forward_mode import jvp
from hesse._rules.scope import hold

_transforms: Any = eager_transforms
# None where PyTorch has another way: the private tests of that release fail then.
_usual: Callable[[Any], Any] | None = getattr(_transforms, "lazy_dynamo_disallow", None)


def _trace(func: Any) -> Any:
    """``func``, or in the place of ``make_fx``, inside of hesse, what makes a graph of one step."""
    assert _usual is not None
    return _one_step if func is make_fx and hold() else _usual(func)


def _one_step(tangent: Callable[..., Any]) -> Callable[[Sequence[Tensor]], torch.fx.GraphModule]:
    """``tangent`` is the function that ``linearize`` traces; the map and the point are variables of its closure."""
    closure = inspect.getclosurevars(tangent).nonlocals
    if not closure.keys() >= {"func", "flat_primals", "primals_argspec"}:
        raise NoDerivativeError(
            f"torch.func.linearize of PyTorch {torch.__version__} leaves out how its tangents depend on its point. Call"
            " torch.func.jvp in its place.",
            "torch.func.linearize",
            None,
        )
    primals = _transforms.tree_unflatten(closure["flat_primals"], closure["primals_argspec"])

    def along(*directions: Tensor) -> list[Any]:
        tangents = _transforms.tree_unflatten(directions, closure["primals_argspec"])
        found: list[Any] = _transforms.tree_flatten(jvp(closure["func"], primals, tangents)[1])[0]
        return found

    def trace(directions: Sequence[Tensor]) -> torch.fx.GraphModule:
        graph = torch.fx.Graph()
        inputs = [graph.placeholder(f"direction_{i}") for i, _ in enumerate(directions)]
        graph.output(graph.call_function(along, tuple(inputs)))
        return torch.fx.GraphModule(torch.nn.Module(), graph)

    return trace


# What ``linearize`` calls its tracer by; no other transform does.
if _usual is not None:
    _transforms.lazy_dynamo_disallow = _trace
