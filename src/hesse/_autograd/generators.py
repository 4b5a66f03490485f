"""Random generators that users' objects hold: copied, or put back to where they were."""

from __future__ import annotations

import contextlib
import copy
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hesse._base.devices import default_generators

KINDS: tuple[Any, ...] = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)


def is_own(value: Any) -> bool:
    """Whether a value is a generator with a state of its own; PyTorch's default ones belong to the process."""
    return (
        isinstance(value, KINDS)
        and not any([value is own for own in default_generators()])
        and type(value) is not random.SystemRandom
    )


def global_generators() -> list[Any]:
    """Python's and NumPy's own."""
    return [random.getstate.__self__, np.random.get_state.__self__]  # type: ignore[attr-defined]  # methods of theirs


def copied(generator: Any) -> Any:
    """Another generator, which will draw the same."""
    return generator.clone_state() if isinstance(generator, torch.Generator) else copy.deepcopy(generator)


def put_back(generator: Any) -> Callable[[], object]:
    """What puts a generator back to where it is now."""
    if isinstance(generator, np.random.Generator):
        return functools.partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)
    if isinstance(generator, random.Random):
        return functools.partial(generator.setstate, generator.getstate())
    return functools.partial(generator.set_state, generator.get_state())


@contextlib.contextmanager
def put_back_where_it_fails() -> Iterator[None]:
    """Python's and NumPy's own draw on from where they were, where what runs within raises."""
    before = [put_back(generator) for generator in global_generators()]
    try:
        yield
    except BaseException:
        for restore in before:
            restore()
        raise


class GeneratorPlan:
    """Of a generator: each copy draws what the original would have drawn when this was made."""

    def __init__(self, generator: Any) -> None:
        self._original = copied(generator)

    def allocate(self, copies: list[Any]) -> Any:
        """Another generator."""
        return copied(self._original)

    def fill(self, fresh: Any, copies: list[Any], tensors: Sequence[Tensor | None]) -> None:
        """Nothing is left to do."""
