"""Products of one operator against a clock, beside PyTorch's own for the same vectors where that is asked for."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hesse._autograd.arguments import check_point
from hesse._base import trees
from hesse._base.clock import Clock
from hesse._base.devices import widest
from hesse._cli.failures import CommandError, UserError, attributed, sentence
from hesse._linearize.options import Name
from hesse._operators.hessian import Hessian
from hesse._operators.loss_hessian import LossHessian
from hesse._operators.problem import Problem
from hesse._solvers.columns import norms


@dataclasses.dataclass
class Measurement:
    """The Hessian at the problem's point, its product with the first vector, and what all of them took.

    Attributes:
        hessian: the operator.
        vector, product: the first vector and its product, structured like the inputs.
        evaluation_seconds: for making the operator: value, gradient, and keeping the point.
        seconds: for each product.
        peer_seconds: for each product of PyTorch's own ``vhp``; empty if that was not asked for.
        difference: ‖product − PyTorch's‖ / ‖PyTorch's‖ for the first vector.
    """

    hessian: Hessian | LossHessian
    vector: Any
    product: Any
    evaluation_seconds: float
    seconds: list[float]
    peer_seconds: list[float] = dataclasses.field(default_factory=list)
    difference: float = 0.0

    @property
    def total_seconds(self) -> float:
        """For the evaluation and all products."""
        return self.evaluation_seconds + sum(self.seconds)

    @property
    def median_seconds(self) -> float:
        """For one product."""
        return statistics.median(self.seconds)

    @property
    def shared_seconds(self) -> float:
        """For one product with its share of the evaluation."""
        return self.median_seconds + self.evaluation_seconds / len(self.seconds)

    @property
    def peer_median_seconds(self) -> float:
        """For one product of PyTorch's own."""
        return statistics.median(self.peer_seconds)


def measure(problem: Problem, first: Any, count: int, rng: Any, compare: bool, engine: Name | None) -> Measurement:
    """Make the operator and multiply ``count`` vectors: ``first`` (None for a random one), then random ones."""
    _load_pytorch()
    with attributed():
        clock = Clock()
        hessian = problem.operator(engine, expect=count)
        evaluation_seconds = clock.lap(hessian.device)
        vectors = _vectors(hessian, first, count, rng)
        measurement: Measurement | None = None
        for vector in vectors:
            clock = Clock()
            product = hessian @ vector
            seconds = clock.lap(hessian.device)
            if measurement is None:
                measurement = Measurement(hessian, vector, product, evaluation_seconds, [])
            measurement.seconds.append(seconds)
            if compare:
                # In turns, so that whatever else the machine does meanwhile is shared by both.
                clock = Clock()
                theirs = _pytorch(problem, vector)
                measurement.peer_seconds.append(clock.lap(hessian.device))
                if len(measurement.peer_seconds) == 1:
                    measurement.difference = _difference(hessian, product, theirs)
        assert measurement is not None
        return measurement


def _load_pytorch() -> None:
    """The first vector pulled through any graph makes PyTorch import for a second, which is no product's time."""
    x = torch.ones(1, requires_grad=True, device="cpu")
    torch.autograd.grad(x * 1, x, torch.ones(1, device="cpu"))


def _vectors(hessian: Hessian | LossHessian, first: Any, count: int, rng: Any) -> Iterator[Any]:
    """One at a time: all of them at once could be many times the memory of the problem."""
    if first is not None:
        yield first if hessian.shards is None else _here(hessian, first)
    for _ in range(count - (first is not None)):
        yield hessian.unflatten(hessian.randn(1, rng).squeeze(-1))


def _here(hessian: Hessian | LossHessian, vector: Any) -> Any:
    """Of a whole structured vector what this rank holds."""
    flat = torch.cat([leaf.reshape(-1) for leaf in trees.leaves(vector)]).to(hessian.dtype)
    return hessian.unflatten(torch.cat([flat[first : first + count] for first, count in hessian.ranges]))


def _pytorch(problem: Problem, vector: Any) -> Any:
    """torch.autograd.functional.vhp's product; it takes tuples of tensors, so the function is given its leaves."""
    point = check_point("vhp", problem.func, problem.inputs)
    entries, spec = trees.flatten(vector)
    call: Callable[..., Any] = lambda *leaves: point.call(leaves)  # noqa: E731  # a function in one line
    try:
        _, product = torch.autograd.functional.vhp(  # type: ignore[no-untyped-call]  # PyTorch's has no types
            call, tuple(point.leaves), tuple(entries)
        )
    except UserError:
        raise
    except Exception as error:
        raise CommandError(
            f"--compare: torch.autograd.functional.vhp fails on this problem: {type(error).__name__}: {sentence(error)}"
        ) from error
    return spec.rebuild(product)


def _difference(hessian: Hessian | LossHessian, ours: Any, theirs: Any) -> float:
    reference = _double(hessian, theirs)
    return float(torch.linalg.vector_norm(_double(hessian, ours) - reference) / torch.linalg.vector_norm(reference))


def _double(hessian: Hessian | LossHessian, tree: Any) -> Tensor:
    return hessian.flatten(tree).cpu().double()


def curvature(measurement: Measurement) -> tuple[float, float]:
    """vᵀHv and the Rayleigh quotient vᵀHv / vᵀv, with real inner products where entries are complex."""
    H = measurement.hessian
    v, product = _column(H, measurement.vector), _column(H, measurement.product)
    along, square = float(H.gram(v, product)), float(H.gram(v, v))
    return along, along / square if square else math.nan


def gradient_norm(measurement: Measurement) -> float:
    """The Euclidean norm of the gradient."""
    H = measurement.hessian
    return float(norms(H, _column(H, H.gradient)))


def _column(hessian: Hessian | LossHessian, vector: Any) -> Tensor:
    return hessian.flatten(vector).unsqueeze(-1).to(widest(hessian.device))
