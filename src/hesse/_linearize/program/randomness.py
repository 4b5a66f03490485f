"""Which calls of an operator draw random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

# The type of an operator has no public name.
from torch._ops import OpOverload


def draws(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call draws: kernels of attention are tagged as random, but draw nothing where ``dropout_p`` is zero."""
    if not isinstance(operator, OpOverload) or torch.Tag.nondeterministic_seeded not in operator.tags:
        return False
    for place, argument in enumerate(operator._schema.arguments):
        if argument.name == "dropout_p":
            chance = args[place] if place < len(args) else kwargs.get(argument.name, argument.default_value)
            # A chance that is not a number is not known to be zero.
            return not (isinstance(chance, int | float) and chance == 0)
    return True
