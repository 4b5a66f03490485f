"""``check``: look at a function before anything large is started with its Hessian."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable
from functools import partial
from operator import matmul
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from hesse._autograd.agreement import coarsest
from hesse._autograd.arguments import Argnums
from hesse._autograd.provenance import is_users, locate
from hesse._autograd.thread_state import interruptible
from hesse._base import trees
from hesse._base.clock import Clock
from hesse._base.interrupts import is_unrelated
from hesse._checking import causes
from hesse._checking.comparing import compare
from hesse._checking.differences import scaled
from hesse._checking.engines import refusal_of_compiled
from hesse._checking.finding import Finding
from hesse._checking.observing import Observation, observe
from hesse._checking.repeating import repeat
from hesse._checking.result import Check
from hesse._checking.subject import Leaves, Subject, inner, is_finite, norm
from hesse._checking.unbounded import first_node
from hesse._operators.hessian import Hessian
from hesse._operators.probes import Rng, generator

Result = TypeVar("Result")

# An asymmetry up to so many times the noise of products is noise: the same products are in both.
NOISE = 5


@interruptible
def check(
    func: Callable[..., Any],
    inputs: Any,
    *,
    has_aux: bool = False,
    argnums: Argnums = None,
    rng: Rng = None,
) -> Check:
    r"""Whether products with the Hessian of a function can be had, can be trusted, and what they would cost.

    Evaluates the function some twenty times and makes a few products :math:`Hv`; asks whether two evaluations agree bit
    for bit, whether the function can be differentiated twice, whether :math:`g^\top v` and :math:`Hv` agree with
    differences of the value and of the gradient along random directions (in double precision where the function lets
    itself be evaluated so), whether :math:`u^\top H v = v^\top H u`, and how long it takes. What is wrong is named with
    the operator and the line of the user's code that are guilty, as far as they can be traced.

    Inputs, captured tensors, their ``.grad``, modules and generators are afterwards as they were. What the function
    prints, it prints each time.

    Args:
        func: takes the inputs, returns a real tensor with a single element.
        inputs: a floating-point or complex tensor, or a structure of them. An outermost tuple is splatted into
            ``func``.
        has_aux: ``func`` returns ``(output, aux)``.
        argnums: which arguments to differentiate by, as an index or a tuple of them, when not all.
        rng: seed, or NumPy or PyTorch generator, of the random directions.

    Returns:
        A :class:`~hesse._checking.result.Check`; its ``ok`` says whether all is well, and ``print`` shows one screen.

    Raises:
        TypeError: something in ``inputs`` or the output is no tensor.
        RuntimeError: ``func`` returns no single element. Whatever ``func`` raises itself passes through.

    Source:
        Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994), for the differences.

    Example:
        >>> import torch, hesse
        >>> report = hesse.check(lambda x: (x.detach() * x**2).sum(), torch.tensor([1.0, 2.0]))
        >>> report.ok, report.findings[0].kind, report.findings[0].operator
        (False, 'cut off', 'Tensor.detach')
        >>> hesse.check(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0])).ok
        True
    """
    subject = Subject(func, inputs, has_aux, argnums)
    examination = _Examination(subject, generator("check", rng))
    with contextlib.suppress(_Ended):
        examination.run()
    return examination.result()


class _Ended(Exception):
    """What was found leaves nothing further to find out."""


class _Examination:
    """One question after the other; what one has found may make an end of it."""

    def __init__(self, subject: Subject, rng: Rng) -> None:
        self._subject, self._rng = subject, rng
        self._findings: list[Finding] = []
        self._notes: list[Finding] = []
        leaves = subject.leaves
        self._facts: dict[str, Any] = {
            "variables": sum([leaf.numel() * (2 if leaf.dtype.is_complex else 1) for leaf in leaves]),
            "dtype": ", ".join(dict.fromkeys([str(leaf.dtype).removeprefix("torch.") for leaf in leaves])),
            "device": str(leaves[0].device),
        }

    def result(self) -> Check:
        return Check(tuple(self._findings), tuple(self._notes), **self._facts)

    def run(self) -> None:
        observed = self._attempt(lambda: observe(self._subject))
        if observed.compiled:
            self._end([causes.compiled(place) for place in observed.compiled])
        self._evaluate()
        with self._subject.preserved():
            directions, products = self._multiply(observed)
        self._judge(observed, directions, products)
        if not self._findings:
            self._try_engines(observed)

    def _evaluate(self) -> None:
        repetition = self._attempt(lambda: repeat(self._subject))
        evaluation = repetition.evaluation
        self._facts |= {
            "value": float(evaluation.value),
            "gradient_norm": norm(evaluation.gradient),
            "deterministic": repetition.deterministic,
            "draws": repetition.draws,
        }
        self._findings += repetition.findings
        self._notes += repetition.notes
        self._evaluation, self._repeatable = evaluation, repetition.repeatable
        if not evaluation.is_finite:
            self._end([causes.not_finite(self._subject, evaluation)])
        missed = None if all(evaluation.connected) else self._subject.missed()
        if missed is not None:
            self._end([causes.missed(missed)])

    def _multiply(self, observed: Observation) -> tuple[list[Leaves], list[list[Tensor]]]:
        clock = Clock()
        hessian = self._attempt(self._hessian)
        evaluation_seconds = clock.lap(hessian.device)
        directions = _directions(hessian, self._rng)
        products, seconds = [], []
        for direction in directions:
            vector = hessian.domain.spec.rebuild(direction)
            clock = Clock()
            product = self._attempt(partial(matmul, hessian, vector), partial(self._product, vector))
            seconds.append(clock.lap(hessian.device))
            products.append(list(trees.leaves(product)))
        explained = hessian.explain()
        self._facts |= {
            "twice_differentiable": True,
            "rules": tuple(dict.fromkeys([place.operator for place in observed.rules])),
            "engines": (explained.engine,),
            "data_dependent": _places(observed),
            "bytes_kept": explained.bytes_kept,
            "evaluation_seconds": evaluation_seconds,
            # The first one may have to load things, once in a process.
            "product_seconds": min(seconds),
        }
        for direction, product in zip(directions, products, strict=True):
            if not is_finite(product):
                self._end([causes.derivative_not_finite("product", first_node(self._subject, direction))])
        hessian.close()
        return directions, products

    def _judge(self, observed: Observation, directions: list[Leaves], products: list[list[Tensor]]) -> None:
        (u, v, *_), (Hu, Hv, *_) = directions, products
        size = 0.5 * (norm(Hu) + norm(Hv))
        apart = abs(inner(u, Hv) - inner(v, Hu))
        compared = slice(2, None if self._repeatable else 2)
        comparison = compare(
            self._subject, self._evaluation, directions[compared], products[compared], self._facts["bytes_kept"]
        )
        self._facts |= {
            "asymmetry": apart / size if size else 0.0,
            "slope": comparison.slope,
            "curvature": comparison.curvature,
            "rounding": comparison.rounding,
        }
        findings, notes = causes.explain(self._subject, observed, comparison, self._evaluation)
        if not findings and apart > self._rounding_of_symmetry(u, v, size):
            noise = self._noise(u, v, Hu, Hv)
            if apart <= NOISE * noise * max(norm(u), norm(v)):
                notes = [*notes, causes.noisy(noise / size, self._subject.leaves[0].device)]
            else:
                findings = [causes.asymmetric(apart / size, coarsest(self._subject.leaves))]
        if not findings and not size:
            findings = [causes.zero(observed, self._evaluation)]
        self._findings += findings
        self._notes += notes

    def _try_engines(self, observed: Observation) -> None:
        refusal = refusal_of_compiled(self._subject, observed.num_nodes)
        if refusal is None:
            self._facts["engines"] += ("compiled",)
        else:
            self._notes.append(refusal)

    def _noise(self, u: Leaves, v: Leaves, Hu: list[Tensor], Hv: list[Tensor]) -> float:
        """How far products are from linear: the norm of H(u + v) - Hu - Hv."""
        both = self._subject.product(self._subject.leaves, [a + b for a, b in zip(u, v, strict=True)])
        return norm([c - a - b for a, b, c in zip(Hu, Hv, both, strict=True)])

    def _rounding_of_symmetry(self, u: Leaves, v: Leaves, size: float) -> float:
        """What rounding may make of uᵀHv - vᵀHu: of the products, and where they are no more than rounding, of f."""
        leaves = self._subject.leaves
        eps = max([torch.finfo(leaf.dtype).eps for leaf in leaves])
        point = norm(leaves) or 1.0
        value = abs(self._facts["value"]) + self._facts["gradient_norm"] * point
        return float(eps ** (2 / 3) * size + 30 * eps * value * norm(u) * norm(v) / point**2)

    def _hessian(self) -> Hessian:
        subject = self._subject
        return Hessian(subject.func, subject.inputs, has_aux=subject.has_aux, argnums=subject.argnums)

    def _product(self, vector: Any) -> Any:
        return self._hessian() @ vector

    def _attempt(self, work: Callable[[], Result], whole: Callable[[], object] | None = None) -> Result:
        """``work()``, or the end with a finding if a backward fails in it; ``whole`` includes the evaluation."""
        try:
            return work()
        except Exception as error:
            if is_unrelated(error):
                raise
            frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
            # What the user's own code raises is not ours to explain.
            failure = None if is_users(frames[-1]) else locate(whole or work, self._subject.func, self._subject.inputs)
            if failure is None:
                raise
            self._facts["twice_differentiable"] = False
            self._end([causes.failed(self._subject, failure)])

    def _end(self, findings: list[Finding]) -> NoReturn:
        self._findings += findings
        raise _Ended


def _places(observed: Observation) -> tuple[str, ...]:
    frames = [cut.frame for cut in (*observed.branches, *observed.numbers) if cut.frame is not None]
    return tuple(dict.fromkeys([str(frame) for frame in frames]))


def _directions(hessian: Hessian, rng: Rng) -> list[Leaves]:
    """Four random vectors: two standard normal ones, and two whose leaves are as large as those of the point."""
    leaves = hessian.domain.leaves
    if any([leaf.layout != torch.strided for leaf in leaves]):
        # No flat vector can be split into sparse leaves: the point itself is a vector.
        return [leaves, leaves]
    normal = [hessian.domain.split(row) for row in hessian.randn(4, rng).mT]
    return [*normal[:2], *[scaled(direction, leaves) for direction in normal[2:]]]
