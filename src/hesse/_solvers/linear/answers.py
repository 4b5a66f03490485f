"""Answers to linear systems, as far as they have come."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from hesse._solvers.checkpoint import State


@dataclasses.dataclass
class Answers:
    """Solutions of A·X = B with their true residuals, as far as they have come.

    Attributes:
        X: solutions, (n, k).
        norms: of B − A·X by true products, (k,).
        endings: why each column has stopped, or "" while it has not.
        iterations: steps taken by each column, (k,).
        bare: which columns go on without the preconditioner.
        claims: what the last run of each column said of why no residual is smaller, if it is to be confirmed, or "".
        scales: the largest norms of A, preconditioned and not, that runs have seen; rounding is measured by them.
        direction: of negative curvature, (n, 1), or None.
        noise: size and level of the products' noise, or None where it was not measured.
        mark: the largest residual norm when the run was last looked at for progress.
    """

    X: Tensor
    norms: Tensor
    endings: list[str]
    iterations: Tensor
    bare: list[bool]
    claims: list[str]
    scales: list[float]
    direction: Tensor | None = None
    noise: list[float] | None = None
    mark: float = 1.0

    def see(self, images: Tensor, lengths: Tensor) -> None:
        """Take the norms of products, (k,), and of their vectors for what they tell of A's norm."""
        self.scales[True] = max([self.scales[True], *(images / lengths).nan_to_num(0.0).tolist()])

    def replace(self, index: Tensor, X: Tensor, norms: Tensor, chosen: Tensor) -> None:
        """Take the chosen ones of X and their residuals' norms for the columns of ``index``."""
        for place in chosen.nonzero().squeeze(1).tolist():
            self.X[:, int(index[place])] = X[:, place]
        self.norms[index[chosen]] = norms[chosen]

    def state(self) -> State:
        """All of it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {f"answers.{name}": value for name, value in fields.items() if value is not None}

    @staticmethod
    def of(state: State) -> Answers:
        """What ``state`` gave."""
        names = [field.name for field in dataclasses.fields(Answers)]
        return Answers(**{name: state[f"answers.{name}"] for name in names if f"answers.{name}" in state})
