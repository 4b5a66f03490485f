"""``Choice``: how products are made, as a small record that can be printed, kept and given back."""

from __future__ import annotations

import dataclasses
from typing import Literal

from hesse._base import checks

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
        checks.choices("Choice", ("tape", "compiled"), engine=self.engine)
        checks.choices("Choice", ("loop", "vmap"), batching=self.batching)
        checks.wholes("Choice", 1, chunk=self.chunk)
        checks.wholes("Choice", 1, optional=True, rows=self.rows)
        checks.flags("Choice", lone=self.lone)
        if self.lone and self.engine != "compiled":
            raise ValueError('A Choice with lone=True needs engine "compiled" but got "tape".')
