"""What ``hesse spectrum`` found, and how it is told in sentences, numbers and tensors."""

from __future__ import annotations

import dataclasses
import math
import platform
from typing import Any

import torch
from torch import Tensor

from hesse._base.version import __version__
from hesse._solvers.eigen.eigenpairs import Eigenpairs
from hesse._solvers.estimate.spectral_density import SpectralDensity
from hesse._solvers.estimate.trace import TraceEstimate


@dataclasses.dataclass(frozen=True)
class Pair:
    """One eigenvalue: its residual ‖H·x − λ·x‖, the bound that it meets, and whether none is missing at its end."""

    value: float
    residual: float
    bound: str
    complete: bool

    @property
    def converged(self) -> bool:
        """Whether the residual meets a bound."""
        return self.bound != "none"


@dataclasses.dataclass
class Spectrum:
    """The Hessian's spectrum at a point, as far as it is known; None for what was not asked or not reached.

    Attributes:
        problem: name of the problem file.
        size: n, the number of variables.
        dtype, device: of flat vectors.
        seed: of all random numbers.
        command: that found it, ready for a shell; empty where none did.
        value, gradient_norm: of the function, at the point.
        num_top, num_bottom: how many eigenvalues were asked for at each end.
        seconds: what each step took, by its name.
        peak_memory: bytes, by where they were: the process's resident memory, the device's.
        interrupted: whether the user stopped it.
        failure: the error that ended it, in a sentence; empty where none did.
    """

    problem: str
    size: int
    dtype: str
    device: str
    seed: int
    value: float
    gradient_norm: float
    num_top: int
    num_bottom: int
    trace: TraceEstimate | None = None
    eigenpairs: Eigenpairs | None = None
    density: SpectralDensity | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    peak_memory: dict[str, int] = dataclasses.field(default_factory=dict)
    command: str = ""
    interrupted: bool = False
    failure: str = ""

    @property
    def top(self) -> list[Pair]:
        """The largest eigenvalues, the largest first."""
        return self._pairs()[::-1][: self.num_top]

    @property
    def bottom(self) -> list[Pair]:
        """The smallest eigenvalues, the smallest first."""
        pairs = self._pairs()
        return pairs[: max(0, len(pairs) - self.num_top)]

    def _pairs(self) -> list[Pair]:
        found = self.eigenpairs
        if found is None:
            return []
        return [
            Pair(float(value), float(residual), bound, complete)
            for value, residual, bound, complete in zip(
                found.values, found.residuals, found.bounds, found.complete, strict=True
            )
        ]

    @property
    def certified(self) -> bool:
        """Whether the residuals are those of true products with the eigenvectors."""
        return self.eigenpairs is not None and self.eigenpairs.num_certificate_products > 0

    @property
    def num_products(self) -> int:
        """Products of all questions, those for true residuals among them."""
        answers = (self.trace, self.eigenpairs, self.density)
        made = sum(answer.num_products for answer in answers if answer is not None)
        return made + (0 if self.eigenpairs is None else self.eigenpairs.num_certificate_products)

    def unconverged(self) -> list[str]:
        """A sentence for each thing that is not as good as was asked for."""
        sentences = []
        if self.interrupted:
            sentences.append("Interrupted: what follows is what was known by then.")
        if self.failure:
            sentences.append(f"Ended by an error: what follows is what was known by then. {self.failure}")
        if self.trace is not None and not self.trace.converged:
            sentences.append(f"The trace has not converged within {self.trace.num_products} products.")
        if self.eigenpairs is not None and not self.eigenpairs.converged:
            made = self.eigenpairs.num_products
            for name, pairs, asked in (("largest", self.top, self.num_top), ("smallest", self.bottom, self.num_bottom)):
                met = sum(pair.converged for pair in pairs)
                if met < asked:
                    sentences.append(
                        f"{met} of the {asked} {name} eigenvalues have converged within {made} products; the others"
                        " are bounds from inside: the true ones lie farther out. Equal ones may be missing too."
                    )
                elif not all(pair.complete for pair in pairs):
                    sentences.append(
                        f"The {asked} {name} eigenvalues have converged, but {made} products have not shown that no"
                        " other belongs between them."
                    )
        if self.density is not None and not self.density.converged:
            sentences.append(f"The density rests on {len(self.density.nodes)} probe vectors, the last cut short.")
        return sentences

    def versions(self) -> dict[str, str]:
        """Versions of what found it, by name."""
        return {"hesse": __version__, "torch": torch.__version__, "python": platform.python_version()}

    def to_json(self) -> dict[str, Any]:
        """Numbers and words, as JSON knows them; arrays are among the tensors."""
        facts = ("problem", "size", "dtype", "device", "seed", "value", "gradient_norm")
        pairs, density = self.eigenpairs, self.density
        eigenvalues = pairs and {
            "top": [dataclasses.asdict(pair) for pair in self.top],
            "bottom": [dataclasses.asdict(pair) for pair in self.bottom],
            "converged": pairs.converged,
            "num_products": pairs.num_products,
            "num_certificate_products": pairs.num_certificate_products,
        }
        smoothed = density and {
            "sigma": density.sigma,
            "confidence": density.confidence,
            "moments": {str(power): density.moment(power) for power in range(1, 5)},
            "converged": density.converged,
            "num_products": density.num_products,
        }
        found = {
            "command": self.command,
            **self.versions(),
            **{name: getattr(self, name) for name in facts},
            "trace": self.trace and dataclasses.asdict(self.trace),
            "eigenvalues": eigenvalues,
            "density": smoothed,
            "num_products": self.num_products,
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory,
            "interrupted": self.interrupted,
            "unconverged": self.unconverged(),
        }
        cleaned: dict[str, Any] = _finite(found)
        return cleaned

    def tensors(self) -> dict[str, Tensor]:
        """Eigenvalues and the density; eigenvectors are named like the inputs by whoever knows them."""
        found: dict[str, Tensor] = {}
        if self.eigenpairs is not None:
            found |= {"eigenvalues": self.eigenpairs.values, "residuals": self.eigenpairs.residuals}
        if self.density is not None:
            for name in ("grid", "density", "low", "high", "nodes", "weights"):
                found[f"density.{name}"] = getattr(self.density, name)
        return found


def _finite(found: Any) -> Any:
    """JSON has no infinities and no NaN: null stands for them."""
    if isinstance(found, dict):
        return {key: _finite(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found
