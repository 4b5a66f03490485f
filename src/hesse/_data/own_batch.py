"""A batch as an evaluation gets it: what is written into it reaches neither the user's nor the next evaluation's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from hesse._autograd.aliases import Aliases
from hesse._autograd.blueprint import Blueprint

Result = TypeVar("Result")


class OwnBatch:
    """Evaluates with a batch whose containers and objects are copies.

    Its tensors share their memory with the user's, unless the first evaluation, whose are copies, writes into one.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._writes: bool | None = None

    def __call__(self, batch: Any, evaluate: Callable[[Any], Result]) -> Result:
        """``evaluate`` of a batch of its own."""
        writes = self._writes
        blueprint = Blueprint(batch, owned=True)
        tensors = blueprint.tensors
        aliases = None if writes is False else Aliases(tensors, range(len(tensors)))
        used = _detached(tensors) if aliases is None else _copied(aliases, tensors)
        counts = _writes(used)
        result = evaluate(blueprint.make(used)[0])
        has_written = _writes(used) != counts
        if has_written and (aliases is None or aliases.apart):
            how = "as earlier ones did not" if aliases is None else "whose tensors share memory in part"
            raise RuntimeError(
                f"An evaluation of the model given to {self._name} writes into its batch, {how}, so the batch is not"
                " what it was. Clone what is written into first."
            )
        # Stand-ins, of which a program is captured, do not decide.
        if writes is None and all([type(tensor) is Tensor for tensor in used]):
            self._writes = has_written
        return result


def _detached(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same numbers, with flags of their own."""
    return [tensor if tensor.requires_grad else tensor.detach() for tensor in tensors]


def _copied(aliases: Aliases, tensors: Sequence[Tensor]) -> list[Tensor]:
    fresh = dict(aliases.copies(tensors, range(len(tensors))))
    return [fresh[place] for place in range(len(tensors))]


def _writes(tensors: Sequence[Tensor]) -> list[int]:
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]
