"""``Choice``: how products are made, as a small record that can be printed, kept and given back."""

from __future__ import annotations

import dataclasses
from typing import Literal

EngineName = Literal["tape", "compiled"]
Batching = Literal["loop", "vmap"]


@dataclasses.dataclass(frozen=True)
class Choice:
    """How an operator makes its products: what ``explain().choice`` says, and what ``engine=`` takes back.

    Attributes:
        engine: ``"tape"`` or ``"compiled"``.
        batching: ``"loop"`` multiplies many vectors one by one, ``"vmap"`` in batches.
        chunk: vectors in a batch.
        rows: over data, the most rows of a batch that are linearized at once; None for whole batches.
        lone: whether the first product at a point is one compiled program, which keeps nothing for others.

    Example:
        >>> import torch, hesse
        >>> H = hesse.Hessian(lambda x: (x**3).sum(), torch.ones(2))
        >>> H.explain().choice
        Choice(engine='tape', batching='loop', chunk=1, rows=None, lone=False)
        >>> hesse.Hessian(lambda x: (x**3).sum(), torch.ones(2), engine=H.explain().choice) @ torch.ones(2)
        tensor([6., 6.])
    """

    engine: EngineName = "tape"
    batching: Batching = "loop"
    chunk: int = 1
    rows: int | None = None
    lone: bool = False

    def __post_init__(self) -> None:
        if self.engine not in ("tape", "compiled") or self.batching not in ("loop", "vmap") or self.chunk < 1:
            raise ValueError(
                'A Choice needs engine "tape" or "compiled", batching "loop" or "vmap" and a chunk of at least 1 but'
                f" got {self.engine!r}, {self.batching!r} and {self.chunk!r}."
            )
        if self.lone and self.engine != "compiled":
            raise ValueError('A Choice with lone=True needs engine "compiled" but got "tape".')
