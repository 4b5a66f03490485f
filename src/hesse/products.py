"""The products that a question makes: counted against a budget, checked, and reported while they are made."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from hesse.checkpoint import Checkpoint, Keeper, State
from hesse.errors import ConvergenceWarning, NonFiniteProductError
from hesse.operators.dense import as_operator
from hesse.operators.operator import Operator
from hesse.progress import Bar


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
        self.operator = as_operator(A)
        self.question = question
        self.max_products = max_products
        self.count = 0
        self.stopped = False
        self._callback = callback
        self._keeper: Keeper | None = None
        self._bar = Bar(question, max_products) if progress else None
        if self.operator.shape[0] != self.operator.shape[1]:
            raise ValueError(f"{question} needs a square operator but got one of shape {self.operator.shape}.")
        if max_products < 1:
            raise ValueError(f"max_products given to {question} should be at least 1 but is {max_products}.")

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

    def resume(self, checkpoint: Checkpoint | None, settings: Mapping[str, Any]) -> State | None:
        """Keep the question's state there from now on; the state to go on from, where one is."""
        if checkpoint is None:
            return None
        self._keeper = Keeper(checkpoint, self.question, self.operator, settings)
        saved = self._keeper.saved
        if saved is not None:
            self.count = saved["products.count"]
        return saved

    def keep(self, state: Callable[[], State]) -> None:
        """Write the question's state to its checkpoint, if it has one and it is time."""
        if self._keeper is not None:
            self._keeper.keep(lambda: {**state(), "products.count": self.count})

    @contextlib.contextmanager
    def part(self, operator: Operator) -> Iterator[Products]:
        """Products of the same question with another operator, out of the same budget."""
        part = Products(operator, self.question, max_products=self.left, callback=self._part_callback(), progress=False)
        try:
            yield part
        finally:
            self.count += part.count
            self.stopped |= part.stopped

    def _part_callback(self) -> Callback:
        before = self.count

        def report(progress: Progress) -> bool:
            count, self.count = self.count, before + progress.num_products
            self.report(progress.status)
            self.count = count
            return self.stopped

        return report

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
                " it is. If it is, set its attribute symmetric to True."
            )

    def multiply(self, V: Tensor) -> Tensor:
        """A·V for columns (n, k), without history."""
        product = self.operator.matmat(V).detach()
        finite = torch.isfinite(product).all(dim=0)
        if not bool(finite.all()):
            place = self.count + 1 + int((~finite).nonzero()[0])
            raise NonFiniteProductError(
                f"Product {place} of {self.question} with the {type(self.operator).__name__} of shape"
                f" {self.operator.shape} holds entries that are not finite. Check the value and gradient at this point."
            )
        self.count += V.shape[1]
        return product

    def norm(self, v: Tensor) -> float:
        """‖v‖ for one column (n, 1)."""
        square = float(self.operator.gram(v, v))
        if not math.isfinite(square):
            raise NonFiniteProductError(
                f"Product {self.count} of {self.question} is too large for the precision of the operator,"
                f" {self.operator.dtype}. Use float64, or divide the function by its scale."
            )
        return math.sqrt(square)

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
