"""``ParallelPoint``: the sum over batches that several ranks evaluate together, with a tensor parallel model."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hesse._autograd.agreement import coarsest
from hesse._base.devices import widest
from hesse._data.batches import checksum
from hesse._data.losses import Reduction
from hesse._operators.data_point import Place
from hesse._operators.sharded_point import ShardedPoint
from hesse._operators.terms import Part, Term
from hesse._ranks.waiting import listed


class ParallelPoint(ShardedPoint):
    """As :class:`ShardedPoint`, where ranks of a team have the same batch, and find the same loss and derivatives."""

    @property
    def _teams(self) -> list[list[int]]:
        assert self._model.teams is not None
        return self._model.teams

    def _having(self, batch: Any, number: int) -> list[bool]:
        """Ranks that have a batch: all, or none; or one sentence if theirs are not the same."""
        found = self.ranks.gather(
            f"batch {number} of {self._what}", lambda: None if batch is None else checksum(batch, None)
        )
        for first, *others in self._teams:
            differ = [rank for rank in others if found[rank] != found[first]]
            if differ:
                raise ValueError(
                    f"Batch {number} of the data given to {self.objective.name} is another on {listed(differ)} than on"
                    f" rank {first}, but ranks of a tensor parallel model evaluate the same batch. Give them the same"
                    " data, in the same order."
                )
        return [entry is not None for entry in found]

    def _choose(self, first: Any, number: int, reduction: Reduction) -> str:
        return "ranks evaluate each batch together"

    def _together(self, place: Place, batch: Any) -> Term:
        is_new = place not in self._values
        term = super()._together(place, batch)
        if is_new:
            value = float(term.value)
            found = self.ranks.gather(f"the loss of {self._what}", lambda: value)
            allowed = self._rounding
            for first, *others in self._teams:
                for rank in others:
                    alike = math.isclose(found[rank], found[first], rel_tol=allowed, abs_tol=allowed)
                    if not alike and math.isfinite(found[rank]):
                        raise RuntimeError(
                            f"The loss of batch {place[0]} given to {self.objective.name} is {found[first]:.6g} on rank"
                            f" {first} and {found[rank]:.6g} on rank {rank}, but a tensor parallel model has one loss."
                            " Give outputs of the model the layout Replicate(), or sum the loss over ranks by"
                            " DTensor.full_tensor()."
                        )
        return term

    def _added_up(self, found: list[tuple[float, float]]) -> tuple[float, float]:
        return super()._added_up([found[first] for first, *_ in self._teams])

    def require_exact(self) -> None:
        """Raise, on all ranks, unless two products are those of one symmetric matrix, but for rounding.

        PyTorch has backwards of DTensors whose derivatives miss a term, and says nothing.
        """
        space, model = self.variables, self._model
        everything = tuple(range(len(space.leaves)))
        generator = torch.Generator(device="cpu").manual_seed(self.ranks.rank)
        drawn = torch.randn(2, space.size, generator=generator, device="cpu")
        vectors = drawn.to(space.device, space.dtype)
        marks: list[tuple[str, Tensor]] = []
        model.marks.found = marks
        try:
            products = self.multiply_rows(vectors, Part(everything, everything), space, space)
        finally:
            model.marks.found = None
        left, right = [rows.to(widest(space.device)) for rows in (vectors, products.flip(0))]
        own = torch.cat([(left * right).sum(1), right.square().sum(1)])
        first, second, *squares = self.ranks.sum(own, "inner products").tolist()
        found = self.ranks.gather(f"derivatives of {self._what}", lambda: marks)
        rounding, scale = math.sqrt(torch.finfo(coarsest(space.leaves)).eps), math.sqrt(max(squares))
        for team in self._teams:
            for rank in team[1:]:
                for (key, entry), (_, expected) in zip(found[rank], found[team[0]], strict=True):
                    if bool(((entry - expected).abs() > rounding * max(scale, float(expected[1]))).any()):
                        self._refuse(f"has other rows by {key!r} on rank {rank} than on rank {team[0]}")
        if abs(first - second) > rounding * scale:
            self._refuse(f"is not symmetric: u·Hv is {first:.6g} where v·Hu is {second:.6g}, of random vectors")

    def _refuse(self, what: str) -> None:
        raise NotImplementedError(
            f"The {self.objective.name} of this tensor parallel model {what}. A derivative of PyTorch's misses a term,"
            " or that of a module whose parameters are no DTensors and which computes with a part of the activations."
            " Give a whole copy of the model, or parallelize such modules, as by SequenceParallel."
        )
