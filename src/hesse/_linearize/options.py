"""``Options``: what every operator at a point may be told about how its products are made."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import torch

from hesse._autograd.thread_state import untraced
from hesse._base import checks
from hesse._base.memory import budget
from hesse._linearize.choice import Batching, Choice

Name = Literal["tape", "compiled", "auto"]
Mode = Literal["auto", "loop", "vmap"]
Verify = bool | Literal["always"]
"""Where a program is compared with the tape: at its points 1, 2, 4, 8, … (True), at all, or at the first (False)."""


def check_verify(entry: str, verify: Any) -> None:
    """Raise where ``verify`` is none of its values."""
    if not (isinstance(verify, bool) or verify == "always"):
        raise TypeError(f'verify given to {entry} should be True, False or "always" but is {verify!r}.')


@dataclasses.dataclass(frozen=True)
class Options:
    """How products are made; the public operators document each field.

    Raises:
        ValueError: a field is none of its values, or the engine cannot differentiate products as asked.
    """

    engine: Name | Choice = "auto"
    batching: Mode = "auto"
    verify: Verify = True
    expect: int | None = None
    memory: int | str | None = None
    create_graph: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.engine, Choice) and self.engine not in get_args(Name):
            raise ValueError(f'engine should be "tape", "compiled" or "auto" but is {self.engine!r}.')
        if self.batching not in get_args(Mode):
            raise ValueError(f'batching should be "auto", "loop" or "vmap" but is {self.batching!r}.')
        checks.wholes("an operator", None, optional=True, expect=self.expect)
        if self.expect is not None and self.expect < 0:
            raise ValueError(f"expect should be a number of products but is {self.expect!r}.")
        checks.flags("an operator", create_graph=self.create_graph)
        check_verify("an operator", self.verify)
        if self.create_graph and self.engine_name == "compiled":
            raise ValueError('create_graph=True needs engine="tape": the products of a program are not differentiable.')
        if self.memory is not None:
            self.allowed(torch.device("cpu"))

    @property
    def engine_name(self) -> Name:
        """The engine asked for; products that are differentiated are the tape's."""
        asked = self.engine.engine if isinstance(self.engine, Choice) else self.engine
        return "tape" if asked == "auto" and self.create_graph else asked

    @property
    def batching_name(self) -> Mode | Batching:
        """How many vectors are multiplied."""
        return self.engine.batching if isinstance(self.engine, Choice) else self.batching

    def allowed(self, device: torch.device) -> int:
        """Bytes that a call may add on a device now; torch.compile cannot trace how they are found."""
        size: int = untraced(budget)(self.memory, device)
        return size
