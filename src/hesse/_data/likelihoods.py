r"""The distributions of targets that PyTorch's losses mean: p(y|x) ∝ exp(−ℓ(y)), with ℓ the unreduced loss.

Each gives the Fisher information of a prediction, E[s·sᵀ] with scores s = ∇ℓ(y), and scores of targets drawn from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from hesse._data.losses import Known, class_dimension
from hesse._linearize.protocol import Leaves, Linearization


class Likelihood(Protocol):
    """The distribution of the targets of a batch, at its prediction.

    Attributes:
        kept: what it has beside that.
    """

    kept: Sequence[Tensor]

    @property
    def dim(self) -> int | None:
        """The dimension, counted from the end, of the entries that one target is about; None where each entry has
        targets of its own, so that scores of different entries are uncorrelated.
        """

    def information(self, u: Tensor) -> Tensor:
        """E[s·sᵀ]·u, for a u in the prediction's shape, or with more dimensions in front."""

    def scores(self, draws: int, generator: torch.Generator) -> Tensor:
        """Scores at targets drawn from the distribution, (draws, *shape)."""


def likelihood(known: Known, prediction: Tensor, target: Tensor, name: str) -> Likelihood:
    """The distribution that a recognized loss means.

    Raises:
        ValueError: the loss has options whose distribution is not known.
    """
    if known.kind in ("cross_entropy", "nll"):
        return Categorical(known, prediction, target, name)
    if known.options["weight"] is not None or known.options["pos_weight"] is not None:
        raise ValueError(f"The {name} of binary cross entropy is not known with weight or pos_weight. Leave them out.")
    if known.kind == "bce_logits":
        return Bernoulli(prediction)
    kind = Gaussian if known.kind == "mse" else Laplace
    return kind(prediction, int(known.counted(tuple(prediction.shape), target)))


class Categorical:
    """Classes with chances q, where the score of class y is s_y·b − t_y·e_y, with e_y the y-th unit vector.

    Cross entropy has b = softmax and s = t = the weight of the class; with label smoothing ε b is less by ε/C and
    t = 1 − ε. The loss of log-probabilities has b = 0.
    """

    def __init__(self, known: Known, prediction: Tensor, target: Tensor, name: str) -> None:
        options = known.options
        self.dim = class_dimension(prediction)
        weight, smoothing = options["weight"], options["label_smoothing"]
        if weight is not None and smoothing:
            raise ValueError(f"The {name} of cross entropy is not known with both weight and label_smoothing.")
        classes = prediction.shape[self.dim]
        shape = [1] * prediction.dim()
        shape[self.dim] = classes
        one = prediction.new_ones(())
        self._t = one * (1 - smoothing) if weight is None else weight.to(prediction).reshape(shape)
        self._s = one if weight is None else self._t
        log_p = prediction if known.kind == "nll" else prediction.log_softmax(self.dim)
        self._q = (self._t * log_p).softmax(self.dim)
        if known.kind == "nll":
            self._b, self._s = torch.zeros_like(prediction), one * 0
        else:
            self._b = prediction.softmax(self.dim) - smoothing / classes
        if not target.dtype.is_floating_point:
            counted = (target != options["ignore_index"]).unsqueeze(self.dim)
            self._b, self._mask = self._b * counted, counted
        else:
            self._mask = torch.ones_like(self._q[..., :1], dtype=torch.bool)
        self.kept: Sequence[Tensor] = [self._q, self._b]

    def information(self, u: Tensor) -> Tensor:
        """Σ_y q_y·(s_y·b − t_y·e_y)·(s_y·b − t_y·e_y)ᵀ·u, which takes a few sums over classes."""
        q, b, s, t = self._q, self._b, self._s, self._t
        along = (b * u).sum(self.dim, keepdim=True)
        inner = (q * s * s).sum(self.dim, keepdim=True) * along - (q * s * t * u).sum(self.dim, keepdim=True)
        product: Tensor = self._mask * (b * inner - q * s * t * along + q * t * t * u)
        return product

    def scores(self, draws: int, generator: torch.Generator) -> Tensor:
        """s_y·b − t_y·e_y for classes y drawn by q."""
        chances = self._q.movedim(self.dim, -1)
        drawn = torch.multinomial(
            chances.reshape(-1, chances.shape[-1]), draws, replacement=True, generator=generator
        ).mT.reshape(draws, *chances.shape[:-1])
        unit = torch.nn.functional.one_hot(drawn, chances.shape[-1]).movedim(-1, self.dim).to(self._q)
        s = self._s if self._s.dim() == 0 else (self._s * unit).sum(self.dim, keepdim=True)
        scores: Tensor = self._mask * (s * self._b - self._t * unit)
        return scores


class Gaussian:
    """Squared error, summed: normal distributions around the prediction with variance ½.

    Args:
        prediction: its entries have as many targets each; where it is broadcast several, whose scores add up.
        number: of all targets.
    """

    kept: Sequence[Tensor] = ()
    dim: None = None

    def __init__(self, prediction: Tensor, number: int) -> None:
        self._prediction, self._each = prediction, number // max(1, prediction.numel())

    def information(self, u: Tensor) -> Tensor:
        """2·u for each target."""
        return 2 * self._each * u

    def scores(self, draws: int, generator: torch.Generator) -> Tensor:
        """The sum of 2·(f − y) with f − y of variance ½."""
        return math.sqrt(2 * self._each) * _noise(torch.randn, self._prediction, draws, generator)


class Laplace(Gaussian):
    """Absolute error: Laplace distributions around the prediction, of scale one."""

    def information(self, u: Tensor) -> Tensor:
        """u for each target."""
        return self._each * u

    def scores(self, draws: int, generator: torch.Generator) -> Tensor:
        """The sum of signs of f − y, of equal chance."""
        drawn = _noise(torch.rand, self._prediction, draws * self._each, generator) < 0.5
        signs: Tensor = 1 - 2 * drawn.to(self._prediction.dtype)
        return signs.reshape(draws, self._each, *self._prediction.shape).sum(1)


class Bernoulli:
    """Binary cross entropy: ones with the chance σ(f)."""

    dim: None = None

    def __init__(self, prediction: Tensor) -> None:
        self._chance = prediction.sigmoid()
        self.kept: Sequence[Tensor] = [self._chance]

    def information(self, u: Tensor) -> Tensor:
        """σ·(1 − σ)·u."""
        return self._chance * (1 - self._chance) * u

    def scores(self, draws: int, generator: torch.Generator) -> Tensor:
        """σ − y."""
        drawn = _noise(torch.rand, self._chance, draws, generator) < self._chance
        return self._chance - drawn.to(self._chance.dtype)


def _noise(draw: object, like: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    assert callable(draw)
    noise: Tensor = draw(draws, *like.shape, dtype=like.dtype, device=like.device, generator=generator)
    return noise


class Information:
    """c·E[s·sᵀ] on the prediction of a batch."""

    linearizations: Sequence[Linearization] = ()

    def __init__(self, of: Likelihood, factor: float) -> None:
        self._of, self._factor = of, factor

    def multiply(self, vectors: Leaves, *, batched: bool) -> list[Tensor]:
        """c·E[s·sᵀ]·u."""
        (vector,) = vectors
        return [self._factor * self._of.information(vector)]

    def kept_bytes(self) -> int:
        """Bytes of what the distribution keeps."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._of.kept)
