"""What is trained: a model, its batches and loss, and what a training loop does besides."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Training:
    """A model as someone trains it.

    Attributes:
        model: with parameters of its own.
        batches: pairs (x, y) for ``loss(model(x), y)``; others for ``loss(model, batch)``; with ``loss=None`` keywords.
        loss: what is minimized.
        options: what operators over data need to be told.
        optimizer: made of the parameters that require gradients.
        after: what the loop does after each step.
        draws: whether an evaluation draws random numbers, which hesse then does as one more evaluation would.
        remembers: whether an evaluation leaves something else in the model than there was.
        little: memory in which batches do not stay linearized.
        refused: by kinds of use, a part of the sentence by which hesse refuses this model there.
        beside: what belongs to the training beside model and optimizer.
    """

    model: nn.Module
    batches: list[Any]
    loss: Any = F.cross_entropy
    options: dict[str, Any] = field(default_factory=dict)
    optimizer: Callable[[Any], torch.optim.Optimizer] = lambda parameters: torch.optim.SGD(
        parameters, lr=0.05, momentum=0.9
    )
    after: Callable[[], object] = lambda: None
    draws: bool = False
    remembers: bool = False
    little: str = "40KB"
    refused: dict[str, str] = field(default_factory=dict)
    beside: Any = None

    @property
    def has_pairs(self) -> bool:
        """Whether batches are pairs of an input and a target."""
        return isinstance(self.batches[0], tuple)

    def loss_of(self, model: Any, batch: Any) -> Tensor:
        """The loss of a batch, by this model or something that is called like it."""
        if self.has_pairs:
            return self.loss(model(batch[0]), batch[1])
        if self.loss is None:
            return model(**batch).loss
        return self.loss(model, batch)


Make = Callable[[], Training]


def seed() -> None:
    """Every generator that a training may draw from, at its start."""
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)  # noqa: NPY002  # as users' code draws


def pairs(*shape: int, classes: int = 3, rows: tuple[int, ...] = (5, 3)) -> list[tuple[Tensor, Tensor]]:
    """Batches of normal inputs of this shape, with classes."""
    return [(torch.randn(count, *shape), torch.randint(classes, (count,))) for count in rows]


def steps(training: Training, count: int) -> Iterator[str]:
    """Train, and pause where a user may do something else, with the name of that place."""
    parameters = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
    optimizer = training.optimizer(parameters)
    training.beside = [training.beside, optimizer]
    for step in range(count):
        batch: Any = training.batches[step % len(training.batches)]
        yield f"before step {step}"
        optimizer.zero_grad()
        training.loss_of(training.model, batch).backward()
        yield f"after the backward of step {step}"
        optimizer.step()
        training.after()


def floating(batch: Any) -> Tensor | None:
    """The input of a batch by which its loss can be differentiated, if there is one."""
    found = batch[0] if isinstance(batch, tuple) else batch
    entries = list(found.values()) if isinstance(found, Mapping) else [found]
    return next((x for x in entries if isinstance(x, Tensor) and x.dtype.is_floating_point), None)
