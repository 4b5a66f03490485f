"""The states of random generators: so that a second evaluation of a function draws what the first one drew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

States = dict[torch.Generator, Tensor]
"""Of random generators, at some time."""


def generator_states(tensors: Sequence[Tensor]) -> States:
    """The states of the generators that a function of these tensors may draw from."""
    generators = [torch.default_generator]
    generators += [torch.cuda.default_generators[index] for index in {t.device.index for t in tensors if t.is_cuda}]
    return {generator: generator.get_state() for generator in generators}


@contextlib.contextmanager
def drawing_from(states: States) -> Iterator[None]:
    """Draw again from these states, and leave the generators as they are found."""
    found = {generator: generator.get_state() for generator in states}
    for generator, state in states.items():
        generator.set_state(state)
    try:
        yield
    finally:
        for generator, state in found.items():
            generator.set_state(state)
