"""How many bytes the vectors of a question may take."""

from __future__ import annotations

import torch

from hesse._base import memory
from hesse._base.several_ranks import group_exists
from hesse._operators.operator import Operator

# By default in a process of a group, where nothing is known of the other ranks.
BYTES_OF_RANKS = 2**30


def allowance(operator: Operator, question: str, budget: int | str | None, device: torch.device, needed: int) -> int:
    """Bytes that may be taken on a device; of ranks what the poorest may take, so that all do the same.

    Args:
        operator: what the question asks.
        question: its name.
        budget: what the caller allows, or None.
        device: where the vectors are.
        needed: the bytes that it cannot do without.
    """
    if operator.ranks is not None:
        size = memory.question_budget(budget, device)
        return operator.ranks.least(f"the memory of {question}", size, device, is_shared=budget is None)
    if budget is None and group_exists():
        # Products may communicate, and then ranks have to decide alike.
        return max(needed, BYTES_OF_RANKS)
    return memory.question_budget(budget, device)
