"""The protocol of an operator: all that a question (an eigenvalue, a trace, a solve) may use."""

from __future__ import annotations

import abc
import functools
import secrets
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor

from hesse._base import checks
from hesse._base.space import Space
from hesse._operators import probes
from hesse._operators.inner_products import inner_products, shared_inner_products
from hesse._ranks.group import Ranks
from hesse._ranks.shards import Ranges, Reduce, Shards
from hesse._sparse.given import Pattern

Decisions = dict[str, Any]
"""How products are made, as JSON: empty for a matrix, and nested for an operator made of others."""


class LinearMap(abc.ABC):
    """A linear map of flat vectors, known by its products; :class:`hesse.Operator` adds what people write with it."""

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    symmetric: bool = False
    positive_semidefinite: bool = False
    differentiable: bool = False
    domain: Space | None = None
    range: Space | None = None
    # Those that make its products together, where they do.
    ranks: Ranks | None = None
    # How vectors lie on these ranks, of a square operator; None where each process holds whole vectors.
    shards: Shards | None = None

    @abc.abstractmethod
    def matmat(self, V: Tensor) -> Tensor:
        """A·V for a matrix of k columns, (n, k) to (m, k)."""

    def rmatmat(self, U: Tensor) -> Tensor:
        """Aᵀ·U for a matrix of k columns, (m, k) to (n, k)."""
        if self.symmetric:
            return self.matmat(U)
        raise TypeError(f"{type(self).__name__} has no product with its transpose.")

    def _matvec(self, v: Tensor) -> Tensor:
        """A·v for one flat vector (n,) of the operator's dtype and device."""
        return self.matmat(v.unsqueeze(-1)).squeeze(-1)

    def _rmatvec(self, u: Tensor) -> Tensor:
        """Aᵀ·u for one flat vector (m,) of the operator's dtype and device."""
        return self._matvec(u) if self.symmetric else self.rmatmat(u.unsqueeze(-1)).squeeze(-1)

    def multiply_leaves(self, entries: list[Tensor]) -> list[Tensor]:
        """A times a vector given as the leaves of ``domain``, as the leaves of ``range``."""
        assert self.domain is not None
        assert self.range is not None
        return self.range.split(self._matvec(self.domain.join(entries).to(self.dtype)))

    def rmultiply_leaves(self, entries: list[Tensor]) -> list[Tensor]:
        """Aᵀ times a vector given as the leaves of ``range``, as the leaves of ``domain``."""
        assert self.domain is not None
        assert self.range is not None
        return self.domain.split(self._rmatvec(self.range.join(entries).to(self.dtype)))

    def gram(self, U: Tensor, V: Tensor) -> Tensor:
        """Inner products Uᵀ·V of two blocks of columns, also of long ones right to rounding; the same on all ranks."""
        if self.ranks is None:
            return inner_products(U, V)
        rows = self.ranks.share(len(U)) if self.shards is None else self.shards.counted
        return shared_inner_products(self.ranks, rows, U, V)

    @property
    def length(self) -> int:
        """How many entries of a flat vector this process holds: n, or fewer where vectors are cut up among ranks."""
        return self.shape[1] if self.shards is None else self.shards.length

    @property
    def ranges(self) -> Ranges:
        """Which entries these are, in their order here: the index of the first of each range, and their number."""
        return ((0, self.shape[1]),) if self.shards is None else self.shards.ranges

    def total(self, values: Tensor, reduce: Reduce = "sum") -> Tensor:
        """The sum or the largest, over ranks, of numbers that each process found of its own entries."""
        checks.choices("total", get_args(Reduce), reduce=reduce)
        return values if self.shards is None else self.shards.total(values, reduce)

    def whole(self, v: Tensor) -> Tensor:
        """All entries of a flat vector (length,), or of columns (length, k), on every rank."""
        lengths = {self.length} if self.shards is not None else set(self.shape)
        if not isinstance(v, Tensor) or v.dim() not in (1, 2) or len(v) not in lengths:
            shape = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
            raise ValueError(f"The vector given to whole() should have shape ({self.length},) but has {shape}.")
        return v if self.shards is None else self.shards.whole(v)

    def _require_whole(self, what: str) -> None:
        """Raise where each rank holds a part of vectors."""
        if self.shards is not None:
            raise NotImplementedError(
                f"{what} needs whole vectors, but those of this {type(self).__name__} are cut up among"
                f" {self.shards.ranks.size} ranks. whole(A @ v) has all entries of a product."
            )

    def randn(self, k: int, rng: probes.Rng = None) -> Tensor:
        """k standard normal probe vectors as columns (n, k), keyed by seed, column and element."""
        return self._probes(probes.randn, k, rng)

    def signs(self, k: int, rng: probes.Rng = None) -> Tensor:
        """k vectors of random signs as columns (n, k), keyed by seed, column and element."""
        return self._probes(probes.signs, k, rng)

    def _probes(self, draw: Callable[..., Tensor], k: int, rng: probes.Rng) -> Tensor:
        checks.wholes(draw.__name__, 0, k=k)
        if rng is None and self.ranks is not None:
            # Ranks draw the same vectors.
            rng = self.ranks.gather("random vectors", lambda: secrets.randbits(63))[0]
        return draw(self.shape[1], k, rng, dtype=self.dtype, device=self.device, ranges=self.ranges)

    def check_columns(self, V: Tensor) -> Tensor:
        """``V`` in the operator's dtype, or one sentence that says why it does not fit."""
        length = self.length
        if V.dim() != 2 or V.shape[0] != length:
            shape = tuple(V.shape) if V.dim() != 2 or V.shape[1] != 1 else (V.shape[0],)
            remedy = "" if self.shards is None else " Each rank gives the entries that it holds, those of ranges."
            raise ValueError(
                f"The vector given to {type(self).__name__} should have shape ({length},) or ({length}, k) but has"
                f" {shape}.{remedy}"
            )
        if V.dtype.is_complex:
            raise TypeError(
                f"The flat vector given to {type(self).__name__} should be real but has dtype {V.dtype}."
                " A complex entry counts as its real and imaginary part: use torch.view_as_real, or flatten()."
            )
        if V.device != self.device:
            raise ValueError(
                f"The vector given to {type(self).__name__} should be on {self.device} but is on {V.device}."
            )
        return V.to(self.dtype)

    @functools.cached_property
    def _flat_stays_flat(self) -> bool:
        """Whether the product with a flat vector of the operator's dtype is flat as well.

        A lone input of one dimension has structured vectors that look flat; their products have the structure of
        ``range``. Where this process holds a part of vectors, a whole one would pass for it.
        """
        if self.shards is not None:
            return False
        if self.domain is None or self.range is None:
            return True
        m, n = self.shape
        if not self.domain.holds(torch.empty(n, dtype=self.dtype, device="meta")):
            return True
        lone = self.range.leaves[0] if self.range.spec.paths == ((),) else None
        return lone is not None and lone.shape == (m,) and lone.dtype == self.dtype

    def expect(self, products: int) -> None:
        """Announce how many products are about to be asked for, which may pay for making them another way."""
        del products

    def decide(self, earlier: Decisions | None = None) -> Decisions:
        """Decide now how products are made, or follow what an earlier run or another process decided; the record.

        From then on the digits of products depend on no clock.

        Raises:
            ValueError: products cannot be made as the earlier ones were.
        """
        del earlier
        return {}

    def _room(self) -> int | None:
        """Bytes that a call may add, its results included; None where nothing bounds them."""
        return None

    def _precision(self) -> torch.dtype:
        """The real dtype that rounds most on the way."""
        return self.dtype

    def _find_pattern(self) -> Pattern | None:
        """Where entries may be, found from the function; None where it cannot be found."""
        return None

    def __repr__(self) -> str:
        engine = self._engine_name()
        last = f", engine={engine}" if engine else ""
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype}, device={self.device}{last})"

    def _formula(self) -> str:
        """The operator within a formula, with its engine where it has one."""
        engine = self._engine_name()
        return type(self).__name__ + (f"[{engine}]" if engine else "")

    def _recipe(self) -> str:
        """What the operator is made of, to the last digit, and by whatever engine."""
        return type(self).__name__

    def _engine_name(self) -> str | None:
        """The engine that makes the next product, where one does."""
        return None
