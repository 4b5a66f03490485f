"""Whether eigenvalues are missing that should be in the answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hesse._solvers.checkpoint import State
from hesse._solvers.eigen.basis import Basis
from hesse._solvers.eigen.claim import Claim
from hesse._solvers.eigen.remainder import Remainder
from hesse._solvers.eigen.wanted import End
from hesse._solvers.run import Products

# A Ritz vector is known well enough to stay away from if its residual is so small a part of its distance from the
# threshold.
SETTLED = 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class Ritz:
    """Ritz pairs of a basis: values, coordinates in the basis as columns, and estimates of their residual norms."""

    values: Tensor
    coordinates: Tensor
    estimates: Tensor

    def settled(self, claims: Sequence[Claim]) -> Tensor:
        """Indices of values beyond the threshold of a claim, and of those next to it that will not get there.

        Of those next to one threshold only such are taken as are known well enough for all of them: a residual r at a
        distance d counts as r²/room, and the room will be about the distance of the first that is not taken.
        """
        # Farther away than the spectrum is wide there is nothing to stay away from.
        width = self.values.max() - self.values.min()
        beyond, settled, vague = torch.zeros(3, len(self.values), dtype=torch.bool, device="cpu").unbind()
        for claim in claims:
            distances = claim.threshold - claim.side * self.values
            known = (distances < 0) | (self.estimates <= SETTLED * distances)
            order = distances.argsort()
            taken = order[: int(known[order].cumprod(0).sum())]
            room = distances[order[len(taken) :]][:1]
            settled[taken] |= distances[taken] <= width
            beyond |= distances < 0
            vague |= (self.estimates**2 > SETTLED**2 * distances.clamp(min=0) * room) if len(room) else ~known
        return (beyond | (settled & ~vague)).nonzero().squeeze(1)


class Completeness:
    """What is known of eigenvalues that a basis has not seen.

    Attributes:
        ends: ends of the spectrum where none is missing.
        num_looking: products made to find that out.

    Args:
        products: the question's products.
        basis: the search's; a random vector that found something missing becomes its tail.
        rng: generator of the random vectors.
    """

    def __init__(self, products: Products, basis: Basis, rng: np.random.Generator) -> None:
        self._products = products
        self._basis = basis
        self._rng = rng
        self.ends: set[End] = set()
        self.num_looking = 0
        # For ends where the search has to find something first: the claim that this makes false, and after how many
        # products another look is taken anyway.
        self._waiting: dict[End, tuple[Claim, int]] = {}

    def state(self, ends: Sequence[End]) -> State:
        """What a checkpoint keeps of it; ends go by their places among these."""
        waiting = {
            str(ends.index(end)): [*dataclasses.astuple(claim), most] for end, (claim, most) in self._waiting.items()
        }
        return {
            "complete.ends": sorted(ends.index(end) for end in self.ends),
            "complete.waiting": waiting,
            "complete.looking": self.num_looking,
        }

    def go_on_from(self, saved: State, ends: Sequence[End]) -> None:
        """Take over what another one kept."""
        self.ends = {ends[place] for place in saved["complete.ends"]}
        self._waiting = {
            ends[int(place)]: (Claim(*claim), most) for place, (*claim, most) in saved["complete.waiting"].items()
        }
        self.num_looking = saved["complete.looking"]

    def examine(self, claims: dict[End, list[Claim]], ritz: Ritz, status: str) -> None:
        """Find out by products whether the claims of these ends are true; the basis is turned for that.

        Args:
            claims: for each end what must be true for none to be missing.
            ritz: Ritz pairs of the basis.
            status: what is said meanwhile.
        """
        in_doubt = [
            (end, claim) for end, parts in claims.items() if not self._waits(end, ritz.values) for claim in parts
        ]
        if not in_doubt:
            return
        places = ritz.settled([claim for _, claim in in_doubt])
        values = ritz.values[places]
        # So the vectors to stay away from take no memory of their own.
        self._basis.turn(ritz.coordinates[:, places])
        coupling = self._basis.leftovers(len(places))
        known = self._basis.vectors[:, : len(places)]
        remainder = Remainder(self._products, known, self._basis.norm, self._rng)
        while in_doubt and self._products.left and not remainder.exhausted:
            remainder.step()
            self.num_looking += 1
            self._products.report(f"{status}, looking for others")
            # Ritz values of long runs change little in a step.
            if remainder.num_steps % max(1, remainder.num_steps // 20) and not remainder.exhausted:
                continue
            for end, claim in list(in_doubt):
                best, bound = remainder.ends(claim.side)
                if claim.follows(values, coupling, bound):
                    in_doubt.remove((end, claim))
                    if all(other != end for other, _ in in_doubt):
                        self.ends.add(end)
                elif best > claim.threshold or claim.threshold - bound > 0.5 * (claim.threshold - best):
                    # Something is missing, or the bound is nearly as good as it can be: then what is there belongs
                    # into the basis.
                    self._wait(end, claim, best, ritz.values)
                    self._basis.push(remainder.start)
                    return

    def _wait(self, end: End, claim: Claim, best: float, values: Tensor) -> None:
        """Until the search knows one more eigenvalue where there is one at ``best``."""
        threshold = min(claim.threshold, 2 * best - claim.threshold)
        known = int((claim.side * values > threshold).sum())
        self._waiting[end] = Claim(claim.side, threshold, known), 2 * self._products.count

    def _waits(self, end: End, values: Tensor) -> bool:
        if end not in self._waiting:
            return False
        claim, most = self._waiting[end]
        return not claim.refuted_by(values) and self._products.count < most
