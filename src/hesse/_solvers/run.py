"""The products that a question makes: counted against a budget, checked, and reported while they are made."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
import torch
from torch import Tensor

from hesse._base import checks, counter_numbers, pages, precision
from hesse._base import memory as budgets
from hesse._base.errors import ConvergenceWarning, MemoryBudgetError, NonFiniteProductError, warn_caller
from hesse._base.progress import Bar
from hesse._base.several_ranks import communications
from hesse._linearize.guard import read_back, read_back_later
from hesse._operators.dense import as_operator
from hesse._operators.operator import Operator
from hesse._operators.probes import Rng, generator
from hesse._solvers import columns as blocks
from hesse._solvers.allowance import allowance
from hesse._solvers.checkpoint import Checkpoint, Keeper, State, exists, origin
from hesse._solvers.one_question import refuse_unknown_ranks, require_one_question


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

    An operator whose norm is far from one is multiplied by a power of two that brings it there, so that no square or
    product of a question's numbers leaves the range of its dtype. The question goes on in these units; ``grow`` and
    ``shrink`` lead out of them and into them. Powers of two change no digit.

    Attributes:
        exponent: products are those with A·2^−exponent.

    Args:
        A: a square operator, or what ``as_operator`` takes for one.
        question: the name under which errors, warnings and progress speak of the question.
        max_products: how many it may make.
        callback: see ``Callback``.
        progress: whether a bar is shown meanwhile.
        memory: what the question's vectors may take; see ``plan``.

    Raises:
        TypeError, ValueError: ``A`` is no square operator, ``max_products`` is less than one, or ``memory`` is no size.
    """

    def __init__(
        self,
        A: Any,
        question: str,
        *,
        max_products: int,
        callback: Callback | None,
        progress: bool,
        memory: int | str | None = None,
    ) -> None:
        checks.wholes(question, 1, max_products=max_products)
        checks.functions(question, optional=True, callback=callback)
        checks.flags(question, progress=progress)
        self.operator = as_operator(A)
        self.question = question
        self.max_products = max_products
        self.count, self.stopped = 0, False
        self._memory = memory
        self._planned: int | None = None
        self.exponent, self._measured, self._price = 0, False, 1
        self._exact = precision.Exact()
        self._callback = callback
        self._keeper: Keeper | None = None
        # A question makes several, whether or not it can tell how many.
        self._expected = 2
        self._beside: Callable[[], State] = dict
        self._generator: np.random.Generator | None = None
        self._origin: Any = None
        self._ranks = self.operator.ranks
        self._is_first = self._ranks is None or self._ranks.is_first
        self._pages = contextlib.ExitStack()
        self._bar = Bar(question, max_products) if progress and self._is_first else None
        if memory is not None:
            budgets.budget(memory, self.operator.device)
        if self.operator.shape[0] != self.operator.shape[1]:
            raise ValueError(f"{question} needs a square operator but got one of shape {self.operator.shape}.")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.__enter__()
        self._pages.enter_context(self._exact)
        if self.operator.device.type == "cpu":
            self._pages.enter_context(pages.keeping_if_large())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pages.close()
        if self._ranks is not None and error is not None:
            self._ranks.leave(self.question, error)
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)
        if self._keeper is not None:
            self._keeper.close()
        budgets.tell(error, f"{self.question} with a {type(self.operator).__name__} of shape {self.operator.shape}")

    def generator(self, rng: Rng) -> np.random.Generator:
        """Where the question's random numbers come from; its checkpoint keeps how far they have come."""
        self._generator = generator(self.question, rng)
        self._origin = origin(rng, self._generator)
        if self._ranks is not None and rng is None:
            # Ranks draw the same vectors.
            seeds = self._ranks.gather(f"the draws of {self.question}", lambda: secrets.randbits(128))
            self._generator = np.random.default_rng(seeds[0])
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
        settings |= {"max_products": self.max_products, "rng": self._origin, "probes": counter_numbers.SCHEME}
        path, watched = None if kept is None else str(kept.path), self._callback is not None
        self.agree(**settings, **{"checkpoint": path, "a callback": watched})
        if kept is None or not exists(kept, self._ranks):
            self.operator.expect(self._expected)
        if kept is None:
            return None
        self._keeper = Keeper(kept, self.question, self.operator, settings)
        saved = self._keeper.saved
        if saved is not None:
            self.go_on_from(saved)
        return saved

    def agree(self, **settings: Any) -> None:
        """Raise, on all ranks, unless these are the same on all."""
        if self._ranks is not None:
            require_one_question(self._ranks, self.question, self.operator, settings)

    def go_on_from(self, saved: State) -> None:
        """Take over how far the question had come."""
        self.count, self.exponent = saved["products.count"], saved["products.exponent"]
        self._measured, self._planned = saved["products.measured"], saved["products.planned"]
        if self._generator is not None:
            self._generator.bit_generator.state = saved["products.rng"]

    def plan(self, least: int, most: int) -> int:
        """How many vectors of the operator's size the question may hold beside what a product takes.

        What memory allows decides, or what it allowed an earlier run that a checkpoint kept.

        Args:
            least: how many the question cannot do without.
            most: how many it has a use for.

        Raises:
            MemoryBudgetError: the least are more than memory allows.
            CheckpointError: the earlier run held more than memory allows now.
        """
        operator, most, length = self.operator, max(least, most), self.longest
        vector = max(1, length * operator.dtype.itemsize)
        allowed = (room := allowance(operator, self.question, self._memory, operator.device, least * vector)) // vector
        if allowed < least:
            raise MemoryBudgetError(
                f"{self.question} needs {budgets.readable(least * vector)} for {least} vectors of {length} entries,"
                f" but memory allows {budgets.readable(room)} on {operator.device}. Raise memory."
            )
        planned = min(allowed, most) if self._planned is None else self._planned
        self.refuse_unless(
            planned <= allowed, f"was written by a run that held up to {planned} vectors, where memory allows {allowed}"
        )
        self._planned = planned
        return planned

    def refuse_unless(self, right: bool, why: str) -> None:
        """Leave the checkpoint as it is unless it is right after all, where only its state could tell."""
        if self._keeper is not None:
            self._keeper.refuse_unless(right, why)

    def keep(self, state: Callable[[], State], *, decided: bool = False) -> None:
        """Write the question's state to its checkpoint, if it has one and it is time.

        Args:
            state: makes the state.
            decided: whether the products left decided how to go on; then an earlier state stays where a callback has
                stopped the question, and none were left.
        """
        if self._keeper is not None and not (decided and self.stopped):
            self._keeper.keep(lambda: {**self._beside(), **state(), **self._state()})

    def _state(self) -> State:
        kept: State = {
            "products.count": self.count,
            "products.exponent": self.exponent,
            "products.measured": self._measured,
            "products.planned": self._planned,
        }
        if self._generator is not None:
            kept["products.rng"] = self._generator.bit_generator.state
        return kept

    @contextlib.contextmanager
    def multiplying_by(self, operator: Operator, beside: Callable[[], State]) -> Iterator[None]:
        """Meanwhile products are those with another operator of this size, in units of its own, out of the same budget.

        Args:
            operator: the other one.
            beside: what of the question a checkpoint keeps beside the state that is kept meanwhile.
        """
        own = self.operator, self.exponent, self._measured
        self.operator, self.exponent, self._measured = operator, 0, False
        self._beside = beside
        try:
            yield
        finally:
            self.operator, self.exponent, self._measured = own
            self._beside = dict

    def move(self, operator: Operator, price: int) -> None:
        """From now on products are those with the operator at another point, in units of its own.

        Args:
            operator: the operator there.
            price: how many products each of them counts for.
        """
        self.operator, self.exponent, self._measured, self._price = operator, 0, False, price

    @property
    def size(self) -> int:
        """n, for an operator of shape (n, n)."""
        return self.operator.shape[1]

    @property
    def is_kept(self) -> bool:
        """Whether there is a checkpoint."""
        return self._keeper is not None

    @property
    def longest(self) -> int:
        """How many entries of a vector a process holds at most."""
        return self.size if self.operator.shards is None else self.operator.shards.longest

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

    def multiply(self, V: Tensor, *, apart: bool = False, measure: bool = True) -> Tensor:
        """A·2^−exponent·V for columns (n, k), without history, on V's device.

        Args:
            V: the columns.
            apart: whether they are not out of the budget.
            measure: whether they tell the norm of A, as no few columns of the identity do.
        """
        # Small vectors times a small operator would lose digits.
        powers = (
            blocks.exponents(self.norms(V))
            if self.exponent
            else torch.zeros(V.shape[1], dtype=torch.int64, device="cpu")
        )
        before = communications()
        with self._exact.as_before(), read_back_later() as flags:
            image = self.operator.matmat(blocks.ldexp(V, -powers).to(self.operator.device)).detach()
        if self._ranks is None and communications() != before:
            draws_alone = self._generator is not None and self._origin is None
            refuse_unknown_ranks(self.question, draws_alone=draws_alone, is_kept=self.is_kept)
        if measure and not self._measured:
            self._measure(V.to(image.device), image)
        product = blocks.ldexp(image, powers - self.exponent)
        # A norm reads the product once. Where it overflows, entries may be finite still.
        lengths = read_back(torch.linalg.vector_norm(product, dim=0), flags)
        product = product.to(V.device)
        if self._any(~torch.isfinite(lengths)).any() and (wrong := self._any(~torch.isfinite(product))).any():
            place = self.count + 1 + int(wrong.nonzero()[0])
            if not self._any(~torch.isfinite(image)).any():
                self._refuse_size(place)
            raise NonFiniteProductError(
                f"Product {place} of {self.question} with the {type(self.operator).__name__} of shape"
                f" {self.operator.shape} holds entries that are not finite. Check the value and gradient at this point."
            )
        self.count += 0 if apart else self._price * V.shape[1]
        return product

    def _any(self, wrong: Tensor) -> Tensor:
        """For each column whether an entry is true, on any rank."""
        return self.operator.total(wrong if wrong.dim() == 1 else wrong.any(dim=0), "max")

    def _measure(self, V: Tensor, image: Tensor) -> None:
        """Take the units from the first product that is not zero, if its norm is far from that of its vector."""
        lengths, found = blocks.norms(self.operator, V), blocks.norms(self.operator, image)
        ratios = torch.where(found > 0, found / lengths, 0)
        if not bool((ratios > 0).any()) or not bool(torch.isfinite(ratios).all()):
            return
        self._measured = True
        exponent = int(blocks.exponents(ratios.max()))
        if abs(exponent) > _near(self.operator.dtype):
            self.exponent = exponent

    def keep_units(self) -> None:
        """Numbers in these units are about to be kept: from now on they stay as they are."""
        self._measured = True

    def grow(self, value: float, power: int = 1) -> float:
        """A number in the question's units, of the size of A to that power, as it is."""
        return _ldexp(value, power * self.exponent)

    def shrink(self, value: float) -> float:
        """A number of the size of A in the question's units."""
        return _ldexp(value, -self.exponent)

    def norms(self, V: Tensor) -> Tensor:
        """‖v‖ for each column, (k,), float64 on the CPU."""
        lengths = blocks.norms(self.operator, V)
        if not bool(torch.isfinite(lengths).all()):
            self._refuse_size(self.count)
        return lengths

    def _refuse_size(self, place: int) -> NoReturn:
        remedy = "Divide" if self.operator.dtype == torch.float64 else "Use float64, or divide"
        raise NonFiniteProductError(
            f"Product {place} of {self.question} is too large for the precision of the operator,"
            f" {self.operator.dtype}. {remedy} the function by its scale."
        )

    def report(self, status: str) -> None:
        """Say how far the question has come; afterwards ``left`` is zero if the callback wants no more."""
        if self._bar is not None:
            self._bar.update(self.count, status)
        if self._callback is None:
            return
        callback, progress = self._callback, Progress(self.question, self.count, self.max_products, status)
        if self._ranks is None:
            found = [callback(progress)]
        else:
            found = self._ranks.gather(f"the callback of {self.question}", lambda: bool(callback(progress)))
        if any(found):
            self.stopped = True

    def warn(self, what: str, remedy: str) -> None:
        """The one warning of a question that has not converged; none where its callback stopped it."""
        if not self.stopped and self._is_first:
            warn_caller(f"{self.question} has made its {self.count} products but {what}. {remedy}", ConvergenceWarning)


def _near(dtype: torch.dtype) -> int:
    """For which e norms from 2^−e to 2^e are near one: an eighth of the range leaves room for squares of residuals."""
    return int(math.log2(torch.finfo(dtype).max)) // 8


def _ldexp(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)
