"""Whether a value depends on its variables by autograd's graph; what cuts it off, or is in their place, where not.

A value that autograd does not connect to the variables has zero derivatives, which is right for a constant, and a
mistake where the function uses its model's own parameters or computes under ``no_grad``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from hesse._autograd import graph
from hesse._autograd.arguments import Point, evaluate
from hesse._autograd.captured import captured, same
from hesse._autograd.cuts import CUTTING, Cut, Cuts, in_order
from hesse._autograd.preserving import preserved


class Missed(NamedTuple):
    """Why derivatives by variables would be zero though the function is no constant.

    Attributes:
        clause: what the value does, after a subject.
        remedy: what helps.
        cut: where it is cut off, if it is that.
    """

    clause: str
    remedy: str
    cut: Cut | None = None


class Followed(NamedTuple):
    """What is differentiated.

    Attributes:
        given: the variables at the point, as the user gave them.
        reads: the function, or whatever else reaches all that it reads.
        arguments: what the function is evaluated on.
        evaluate: evaluates it at tracked variables.
    """

    given: Sequence[Tensor]
    reads: Any
    arguments: Any
    evaluate: Callable[[tuple[Tensor, ...]], Sequence[Tensor]]


def followed_function(name: str, func: Callable[..., Any], inputs: Any, point: Point, has_aux: bool) -> Followed:
    """A function of the user's, at a point of its inputs."""
    return Followed(point.leaves, func, inputs, lambda x: evaluate(name, point, x, False, has_aux)[0])


def require_dependence(name: str, what: str, outputs: Sequence[Tensor], x: Sequence[Tensor], of: Followed) -> None:
    """Raise where ``outputs`` at the tracked variables ``x`` do not depend on them, but for no good reason.

    A constant passes. So do stand-ins without numbers. ``what`` is the subject of the sentence, such as "a loss that".
    """
    if any([isinstance(output, FakeTensor) for output in outputs]):
        return
    found = missed(outputs, x, of)
    if found is not None:
        raise RuntimeError(f"{name} was given {what} {found.clause}. {found.remedy}")


def missed(outputs: Sequence[Tensor], x: Sequence[Tensor], of: Followed) -> Missed | None:
    """Why ``outputs`` at the tracked variables ``x`` do not depend on all of them; None if they do, or need not."""
    if not any([given.numel() for given in of.given]):
        return None
    followed = [output for output in outputs if output.requires_grad]
    if not followed:
        return _cut_off(of, tuple(x))
    own = {id(leaf) for leaf in x}
    nodes = graph.nodes(followed, until=[leaf.grad_fn for leaf in x if leaf.grad_fn is not None])
    # An output that is a variable itself has no node.
    alone = [output for output in followed if output.grad_fn is None]
    leaves = {id(leaf): leaf for leaf in [*alone, *graph.leaves_of(nodes)]}
    seen = set(nodes)
    is_reached = [id(leaf) in leaves if leaf.grad_fn is None else leaf.grad_fn in seen for leaf in x]
    others = [leaf for key, leaf in leaves.items() if key not in own]
    if not any(is_reached):
        return _elsewhere(others, of) if others else None
    unreached = [given for reached, given in zip(is_reached, of.given, strict=True) if not reached]
    instead = [leaf for leaf in others if any([_is_copy(leaf, given) for given in unreached])]
    return _captured_instead(instead, of) if instead else None


def _place(tensor: Tensor) -> Any:
    """Where a tensor lies, so that an alias of it is told."""
    try:
        return tensor.data_ptr(), tensor.shape, tensor.device
    except RuntimeError:  # sparse tensors and wrapper subclasses
        return id(tensor)


def _is_copy(leaf: Tensor, given: Tensor) -> bool:
    """Whether a captured leaf is a given variable, an alias or a copy of it; a copy of a constant could be another."""
    if leaf.shape != given.shape or leaf.dtype != given.dtype or leaf.device != given.device or not leaf.numel():
        return False
    if _place(leaf) == _place(given):
        return True
    return (
        leaf.layout == given.layout == torch.strided and same(leaf, given) and bool((leaf != leaf.flatten()[0]).any())
    )


def _elsewhere(leaves: Sequence[Tensor], of: Followed) -> Missed:
    return Missed(
        f"depends on none of its variables, but on {_named(leaves, of)} with requires_grad=True, so that every product"
        " would be zero",
        "Compute with the arguments, as torch.func.functional_call does for a model, or detach what is meant to be a"
        " constant.",
    )


def _captured_instead(leaves: Sequence[Tensor], of: Followed) -> Missed:
    return Missed(
        f"uses {_named(leaves, of)} itself and not the argument in its place, so that products would be zero there",
        "Compute with the argument, or detach the captured tensor if it is meant to be a constant.",
    )


def _named(leaves: Sequence[Tensor], of: Followed) -> str:
    names = {_place(tensor): name for name, tensor in captured(of.reads)}
    known = [names[_place(leaf)] for leaf in leaves if _place(leaf) in names]
    first = min(known).removeprefix("The ") if known else f"tensor of shape {tuple(leaves[0].shape)}"
    more = len(leaves) - 1
    return f"the {first}" + (f" and {more} more" if more else "")


def _cut_off(of: Followed, x: tuple[Tensor, ...]) -> Missed | None:
    """What cuts a value without a graph off from variables that it is computed of, by following an evaluation."""
    with preserved(of.reads, of.arguments), Cuts(x) as cuts:
        outputs = of.evaluate(x)
    passed = {cut for output in outputs for cut in cuts.before(output)}
    # What was detached on purpose and then rounded is a constant indeed.
    steps = any([cut.kind == "steps" for cut in passed])
    found = [cut for cut in passed if cut.kind in CUTTING and not (steps and cut.kind == "detach")]
    cut = next(iter([*in_order(found), *in_order(cuts.numbers)]), None)
    if cut is None:
        return None
    where = "" if cut.frame is None else f" at {cut.frame}" + (f", in `{cut.frame.code}`" if cut.frame.code else "")
    return Missed(
        f"is cut off from its variables{where}, so that every product would be zero: {cut.sentence.rstrip('.')}",
        cut.remedy,
        cut,
    )
