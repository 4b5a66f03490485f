"""The products that a question makes: counted against a budget, checked, and reported while they are made."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from hesse._base import checks, memory
from hesse._base.errors import ConvergenceWarning, NonFiniteProductError
from hesse._base.progress import Bar
from hesse._base.several_ranks import communications
from hesse._operators.dense import as_operator
from hesse._operators.operator import Operator
from hesse._operators.probes import Rng, generator
from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import Checkpoint, Keeper, State, origin


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a question has come: what its ``callback`` is given.

    Attributes:
        question: name of the question, such as ``"eigsh"``.
        num_products: products made so far.
        max_products: products that it may make.
        status: what is known so far, in a few words.
    """

    question: str
    num_products: int
    max_products: int
    status: str


Callback = Callable[[Progress], bool | None]
"""Called as a question goes on; a true answer stops it, and what is known by then is returned as unconverged."""


class Products:
    """The products that one question makes with its operator.

    Args:
        A: a square operator, or what ``as_operator`` takes for one.
        question: the name under which errors, warnings and progress speak of the question.
        max_products: how many it may make.
        callback: see ``Callback``.
        progress: whether a bar is shown meanwhile.

    Raises:
        TypeError, ValueError: ``A`` is no square operator, or ``max_products`` is less than one.
    """

    def __init__(self, A: Any, question: str, *, max_products: int, callback: Callback | None, progress: bool) -> None:
        checks.wholes(question, 1, max_products=max_products)
        checks.functions(question, optional=True, callback=callback)
        checks.flags(question, progress=progress)
        self.operator = as_operator(A)
        self.question = question
        self.max_products = max_products
        self.count = 0
        self.stopped = False
        self._callback = callback
        self._keeper: Keeper | None = None
        self._expected = 0
        self._beside: Callable[[], State] = dict
        self._generator: np.random.Generator | None = None
        self._origin: Any = None
        self._bar = Bar(question, max_products) if progress else None
        if self.operator.shape[0] != self.operator.shape[1]:
            raise ValueError(f"{question} needs a square operator but got one of shape {self.operator.shape}.")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)
        if self._keeper is not None:
            self._keeper.close()
        memory.tell(error, f"{self.question} with a {type(self.operator).__name__} of shape {self.operator.shape}")

    def generator(self, rng: Rng) -> np.random.Generator:
        """Where the question's random numbers come from; its checkpoint keeps how far they have come."""
        self._generator = generator(self.question, rng)
        self._origin = origin(rng, self._generator)
        return self._generator

    def expect(self, products: int) -> None:
        """So many products are likely to be made; ``resume`` decides by that, unless a checkpoint has decided."""
        self._expected = min(products, self.max_products)

    def resume(self, checkpoint: Checkpoint | str | Path | None, **settings: Any) -> State | None:
        """Keep the question's state there from now on; the state to go on from, where one is.

        Args:
            checkpoint: as the question was given it.
            settings: what must be the same again, beside the budget and the origin of random numbers: JSON, tensors or
                operators.
        """
        if not isinstance(checkpoint, Checkpoint | None):
            checks.paths(self.question, checkpoint=checkpoint)
        kept = Checkpoint.of(checkpoint)
        if self._expected and (kept is None or not Path(kept.path).exists()):
            self.operator.expect(self._expected)
        if kept is None:
            return None
        settings |= {"max_products": self.max_products, "rng": self._origin}
        self._keeper = Keeper(kept, self.question, self.operator, settings)
        saved = self._keeper.saved
        if saved is not None:
            self.count = saved["products.count"]
            if self._generator is not None:
                self._generator.bit_generator.state = saved["products.rng"]
        return saved

    def refuse_unless(self, right: bool, why: str) -> None:
        """Leave the checkpoint as it is unless it is right after all, where only its state could tell."""
        if self._keeper is not None:
            self._keeper.refuse_unless(right, why)

    def keep(self, state: Callable[[], State]) -> None:
        """Write the question's state to its checkpoint, if it has one and it is time."""
        if self._keeper is not None:
            self._keeper.keep(lambda: {**self._beside(), **state(), **self._state()})

    def _state(self) -> State:
        kept: State = {"products.count": self.count}
        if self._generator is not None:
            kept["products.rng"] = self._generator.bit_generator.state
        return kept

    @contextlib.contextmanager
    def multiplying_by(self, operator: Operator, beside: Callable[[], State]) -> Iterator[None]:
        """Meanwhile products are those with another operator of this size, out of the same budget.

        Args:
            operator: the other one.
            beside: what of the question a checkpoint keeps beside the state that is kept meanwhile.
        """
        own, self.operator, self._beside = self.operator, operator, beside
        try:
            yield
        finally:
            self.operator, self._beside = own, dict

    @property
    def size(self) -> int:
        """n, for an operator of shape (n, n)."""
        return self.operator.shape[1]

    @property
    def left(self) -> int:
        """How many products may still be made: none once the callback has stopped the question."""
        return 0 if self.stopped else self.max_products - self.count

    def require_symmetric(self) -> None:
        """One sentence for an operator that does not say that it is symmetric."""
        if not self.operator.symmetric:
            raise ValueError(
                f"{self.question} needs a symmetric operator but this {type(self.operator).__name__} does not say that"
                " it is. If it is, give hesse.as_operator(A, symmetric=True)."
            )

    def multiply(self, V: Tensor, *, apart: bool = False) -> Tensor:
        """A·V for columns (n, k), without history, on V's device; out of the budget unless it is ``apart``."""
        before = communications()
        product = self.operator.matmat(V.to(self.operator.device)).detach().to(V.device)
        if communications() != before:
            self._require_alike_on_ranks()
        finite = torch.isfinite(product).all(dim=0)
        if not bool(finite.all()):
            place = self.count + 1 + int((~finite).nonzero()[0])
            raise NonFiniteProductError(
                f"Product {place} of {self.question} with the {type(self.operator).__name__} of shape"
                f" {self.operator.shape} holds entries that are not finite. Check the value and gradient at this point."
            )
        self.count += 0 if apart else V.shape[1]
        return product

    def _require_alike_on_ranks(self) -> None:
        """Products that are summed over ranks, say, have to be of the same vectors on all of them."""
        if self._generator is not None and self._origin is None:
            raise ValueError(
                f"{self.question} was given rng=None, which draws other random vectors on each rank, but its products"
                " communicate with other ranks. Give rng= a number, the same on all ranks."
            )
        if self._keeper is not None:
            raise NotImplementedError(
                f"{self.question} was given a checkpoint, but its products communicate with other ranks, and each rank"
                " would write its own at another product. Leave checkpoint= out."
            )

    def norms(self, V: Tensor) -> Tensor:
        """‖v‖ for each column, (k,), float64 on the CPU."""
        squares = blocks.dots(self.operator, V, V)
        if not bool(torch.isfinite(squares).all()):
            raise NonFiniteProductError(
                f"Product {self.count} of {self.question} is too large for the precision of the operator,"
                f" {self.operator.dtype}. Use float64, or divide the function by its scale."
            )
        return squares.sqrt()

    def report(self, status: str) -> None:
        """Say how far the question has come; afterwards ``left`` is zero if the callback wants no more."""
        if self._bar is not None:
            self._bar.update(self.count, status)
        if self._callback is not None and self._callback(
            Progress(self.question, self.count, self.max_products, status)
        ):
            self.stopped = True

    def warn(self, what: str, remedy: str) -> None:
        """The one warning of a question that has not converged; none where its callback stopped it."""
        if not self.stopped:
            warnings.warn(
                f"{self.question} has made its {self.count} products but {what}. {remedy}",
                ConvergenceWarning,
                stacklevel=3,
            )
