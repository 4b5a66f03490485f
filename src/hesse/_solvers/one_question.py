"""What ranks compare when a question begins: another argument on one of them would end in other vectors on each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hesse._operators.operator import Operator
from hesse._ranks.group import Ranks
from hesse._solvers.checkpoint import marks


def require_one_question(ranks: Ranks, question: str, operator: Operator, settings: Mapping[str, Any]) -> None:
    """Raise, on all ranks, unless all ask the same.

    Every rank computes with small matrices by itself. Other threads or instructions give these other last digits, and
    ranks would part.
    """
    # Of parts of vectors, how many there are has to be the same.
    is_cut = operator.shards is not None
    tensors = [] if is_cut else [value for value in settings.values() if isinstance(value, Tensor)]
    shaped = {
        name: tuple(value.shape)[isinstance(value, Tensor) and is_cut :]
        for name, value in settings.items()
        if hasattr(value, "shape")
    }
    asked = {
        "an operator of shape": tuple(operator.shape),
        # A factor of another size on one rank does not show in products of parts.
        "an operator": operator._recipe(),
        **marks({name: value for name, value in settings.items() if name not in shaped}),
        **shaped,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    ranks.require_alike(question, ranks.gather(f"the start of {question}", lambda: asked, tensors))


def refuse_unknown_ranks(question: str, *, draws_alone: bool, is_kept: bool) -> None:
    """Raise where products that are summed over ranks, say, would not be of the same vectors on all of them."""
    if draws_alone:
        raise ValueError(
            f"{question} was given rng=None, which draws other random vectors on each rank, but its products"
            " communicate with other ranks. Give rng= a number, the same on all ranks."
        )
    if is_kept:
        raise NotImplementedError(
            f"{question} was given a checkpoint, but its products communicate with other ranks, and each rank"
            " would write its own at another product. Leave checkpoint= out."
        )
