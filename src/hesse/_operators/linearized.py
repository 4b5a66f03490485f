"""What operators on a kept point share: one evaluation, many products, and the refusal of a stale point."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from hesse._autograd.agreement import coarsest
from hesse._autograd.arguments import Argnums
from hesse._autograd.evaluation import untraced
from hesse._base.memory import budget, readable
from hesse._base.space import Space
from hesse._linearize.chunks import Batching, Mode, Rows
from hesse._linearize.engines import Choice, Engine, Name, engine_by_name
from hesse._linearize.guard import Guard
from hesse._linearize.protocol import Direction, EngineName, Linearization, Selection
from hesse._linearize.room import Room
from hesse._linearize.unit_vectors import UnitVectors
from hesse._operators import materialize
from hesse._operators.conversions import Indices, row_numbers
from hesse._operators.materialize import EVERYTHING, Part
from hesse._operators.operator import Operator, require_engine


@dataclasses.dataclass(frozen=True)
class Options:
    """How an operator is made from a function, kept so that ``at`` can make it again."""

    has_aux: bool
    argnums: Argnums
    create_graph: bool
    batching: Mode
    engine: Name | Choice | Engine
    verify: bool
    memory: int | str | None
    expect: int | None = None
    chunk: int | None = None

    @staticmethod
    def of(engine: Name | Choice | Engine, batching: Mode, **others: Any) -> Options:
        """The options, where a choice says how many vectors are multiplied, too."""
        if isinstance(engine, Choice):
            return Options(engine=engine, batching=engine.batching, chunk=engine.chunk, **others)
        return Options(engine=engine, batching=batching, **others)

    def made_engine(self, func: Any, directions: tuple[Direction, ...], device: torch.device) -> Engine:
        """The engine for a function of tensors on that device; one that another point has used is used again."""
        return engine_by_name(
            self.engine,
            func,
            directions=directions,
            create_graph=self.create_graph,
            verify=self.verify,
            expect=self.expect,
            most_kept=None if self.memory is None else allowed(self.memory, device),
        )

    def at(self, engine: Engine) -> dict[str, Any]:
        """The same options for another point, where the engine uses again what it has made."""
        # The chunk is taken over with what trials decided.
        return {**{name: value for name, value in vars(self).items() if name != "chunk"}, "engine": engine}


@dataclasses.dataclass(frozen=True)
class Explanation:
    """How an operator makes its products, and why.

    Attributes:
        engine: "tape", "captured" or "compiled".
        engine_reason: why this engine, with the figures.
        batching: how many vectors are multiplied: "loop", "vmap", or "undecided" before a trial.
        reason: why, with the figures of the trial.
        chunk: vectors that go through the kept graph at once.
        bytes_each: memory that each of them takes at the peak of a product, in bytes, as measured; 0 before.
        budget: memory that a product call may add now, in bytes.
        bytes_kept: memory that the kept point keeps alive, in bytes.
        programs: how many programs have been compiled for this function so far, one for each layout of its inputs
            and each set of Python values that it reads.
        compile_seconds: what capturing and compiling them has taken so far.
        refusal: why ``engine="auto"`` goes on with the tape, or None.
    """

    engine: EngineName
    batching: str
    reason: str
    chunk: int
    bytes_kept: int
    programs: int = 0
    compile_seconds: float = 0.0
    refusal: str | None = None
    bytes_each: int = 0
    budget: int = 0
    engine_reason: str = ""

    @property
    def choice(self) -> Choice:
        """All that was decided, to be given back as ``engine=``; what was not measured yet is a loop."""
        if self.batching == "vmap":
            return Choice(self.engine, "vmap", self.chunk)
        return Choice(self.engine)

    def __str__(self) -> str:
        compiled = f", {self.programs} programs compiled in {self.compile_seconds:.1f} s" if self.programs else ""
        each = (
            f"{readable(self.bytes_each)} each at the peak" if self.bytes_each else "not measured yet what each takes"
        )
        return (
            f"engine {self.engine} ({self.engine_reason}){compiled}, keeping {self.bytes_kept / 2**20:.1f} MiB;"
            f" many vectors: {self.batching} in chunks of {self.chunk} ({self.reason}), {each} of"
            f" {readable(self.budget)} that may be taken"
        )


class Linearized(Operator):
    """An operator whose products replay one linearization, or a block of it."""

    domain: Space
    range: Space

    def __init__(
        self,
        engine: Engine,
        linearization: Linearization,
        guard: Guard,
        options: Options,
        domain: Space,
        range_: Space,
        selection: Selection,
        *,
        symmetric: bool,
    ) -> None:
        self._engine = engine
        self._linearization = linearization
        self._guard = guard
        self._options = options
        self._selection = selection
        self.domain, self.range = domain, range_
        self.shape = (range_.size, domain.size)
        self.dtype, self.device = torch.promote_types(domain.dtype, range_.dtype), domain.device
        self._precision = coarsest([*domain.leaves, *range_.leaves])
        if options.memory is not None:
            # What is no size is refused now, and not at the first product.
            self._memory()
        # One for each direction: J and its transpose are different programs, and one may batch where the other fails.
        self._batching, self._transposed_batching = self._new_batching(), self._new_batching()
        self.symmetric = symmetric
        self.differentiable = linearization.create_graph

    def matmat(self, V: Tensor) -> Tensor:
        """A·V for columns (n, k): one replay for each vector or chunk of vectors."""
        return self._multiplied(self._forward, self._batching, V.mT, self.domain, self.range).mT

    def rmatmat(self, U: Tensor) -> Tensor:
        """Aᵀ·U for columns (m, k)."""
        if self.symmetric:
            return self.matmat(U)
        return self._multiplied(self._backward, self._transposed_batching, U.mT, self.range, self.domain).mT

    def rows(self, indices: Indices) -> Tensor:
        """Some rows of the matrix, (k, n): one product each, in chunks that stay within ``memory``."""
        replay, batching = (
            (self._forward, self._batching) if self.symmetric else (self._backward, self._transposed_batching)
        )
        units = UnitVectors(self.range.size, self.range.dtype, self.device, row_numbers(indices, self.shape[0]))
        return self._multiplied(replay, batching, units, self.range, self.domain)

    def expect(self, products: int) -> None:
        """So many products are about to be asked for: ``engine="auto"`` decides by that."""
        self._begin(products)

    def _begin(self, count: int) -> None:
        """Products with so many vectors are asked for: the point must be as it was, and the engine may change."""
        self._guard.check()
        self._linearization.begin(count)

    def _memory(self) -> int:
        return allowed(self._options.memory, self.device)

    def _new_batching(self, left: int | None = None) -> Batching:
        """What decides how vectors are multiplied, ``left`` bytes of memory given, or as many as are allowed then."""
        asked = self._options.memory is not None
        # Not this operator's own method: a cycle would keep the graph until the collector comes.
        now = functools.partial(allowed, self._options.memory, self.device)
        room = Room(now if left is None else lambda: left, self.device, asked=asked)
        linearization = self._linearization
        batching = Batching(
            self._options.batching,
            self._precision,
            chunk=self._options.chunk,
            fixed=lambda: linearization.batch_size,
            price=lambda: linearization.batch_price,
            room=room,
        )
        if left is not None:
            batching.inherit(self._batching)
        return batching

    def _forward(self, entries: list[Tensor], batched: bool, part: Part = EVERYTHING) -> list[Tensor]:
        """A times a vector, of which ``part.sources`` are given, for the leaves ``part.targets`` of the product."""
        selection = Selection(part.of_targets(self._selection.outputs), part.of_sources(self._selection.inputs))
        return self._linearization.matvec(entries, selection, batched=batched)

    def _backward(self, entries: list[Tensor], batched: bool, part: Part = EVERYTHING) -> list[Tensor]:
        """Aᵀ times a vector."""
        selection = Selection(part.of_sources(self._selection.outputs), part.of_targets(self._selection.inputs))
        return self._linearization.rmatvec(entries, selection, batched=batched)

    def _matvec(self, v: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() or self.differentiable):
            return self.range.join(self.multiply_leaves(self.domain.split(v))).to(self.dtype)

    def _rmatvec(self, u: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() or self.differentiable):
            return self.domain.join(self.rmultiply_leaves(self.range.split(u))).to(self.dtype)

    def _engine_name(self) -> str:
        return self._linearization.engine

    def multiply_leaves(self, entries: list[Tensor]) -> list[Tensor]:
        """A times a structured vector: one replay, and no copy to a flat vector and back."""
        self._begin(1)
        return self._forward(entries, False)

    def rmultiply_leaves(self, entries: list[Tensor]) -> list[Tensor]:
        """Aᵀ times a structured vector."""
        self._begin(1)
        return self._forward(entries, False) if self.symmetric else self._backward(entries, False)

    def _multiplied(
        self,
        replay: Callable[[list[Tensor], bool], list[Tensor]],
        batching: Batching,
        vectors: Rows,
        source: Space,
        target: Space,
    ) -> Tensor:
        """The product of each row of ``vectors``, one a row."""
        self._begin(vectors.shape[0])

        def multiply(rows: Tensor) -> Tensor:
            batch = rows.dim() - 1
            return target.join(replay(source.split(rows), batch == 1), batch)

        # One vector a row: a matrix of columns is the transposed view of that, and no copy.
        with torch.set_grad_enabled(torch.is_grad_enabled() or self._linearization.create_graph):
            return batching.multiply(multiply, vectors, target.lengths).to(self.dtype)

    def to_dense(self) -> Tensor:
        """The matrix (m, n), from one product for each column or row, whichever are fewer.

        Products are written into the matrix they belong to. Of a symmetric one only those on and above the diagonal,
        by leaves, are asked for.

        Raises:
            MemoryBudgetError: the matrix and a product do not stay within ``memory``.
        """
        if self.differentiable:
            return super().to_dense()
        self._begin(min(self.shape))
        if self.symmetric:
            return materialize.symmetric(self._forward, self.domain, self.dtype, self._memory(), self._new_batching)
        m, n = self.shape
        replay, source, target = (
            (self._backward, self.range, self.domain) if m < n else (self._forward, self.domain, self.range)
        )
        rows = materialize.rows(replay, source, target, self.dtype, self._memory(), self._new_batching)
        return rows if m < n else rows.mT

    def _inherit(self, earlier: Linearized) -> Self:
        """Take over what trials at another point of the same function decided."""
        self._batching.inherit(earlier._batching)
        self._transposed_batching.inherit(earlier._transposed_batching)
        return self

    def flatten(self, tree: Any) -> Tensor:
        """A vector structured like the inputs as a flat one (n,)."""
        return self.domain.flatten(tree)

    def unflatten(self, vector: Tensor) -> Any:
        """A flat vector (n,) as one structured like the inputs."""
        return self.domain.unflatten(vector)

    def explain(self) -> Explanation:
        """How products are made, and why; ``print`` it."""
        return Explanation(
            engine=self._linearization.engine,
            engine_reason=self._engine.reason,
            batching=self._batching.chosen or "undecided",
            reason=self._batching.reason,
            chunk=self._batching.chunk,
            bytes_kept=self._linearization.kept_bytes(),
            programs=len(self._engine.programs),
            compile_seconds=self._engine.seconds,
            refusal=self._engine.refusal,
            bytes_each=self._batching.room.each,
            budget=self._memory(),
        )

    def settle(self) -> dict[str, str]:
        """Decide for an engine by what is expected now, and for single products where batches were not measured yet."""
        self._linearization.settle(None)
        self._batching.adopt(self._batching.chosen or "loop")
        choice = self.explain().choice
        return {"engine": choice.engine, "batching": choice.batching, "chunk": str(choice.chunk)}

    def adopt(self, settled: dict[str, str]) -> None:
        """Make products as another process settled it."""
        self._linearization.settle(settled["engine"])
        require_engine(self.domain.name, settled["engine"], self._linearization.engine)
        self._batching.adopt(settled["batching"], int(settled["chunk"]))

    def close(self) -> None:
        """Free what is kept; products raise from then on."""
        self._linearization.close()
        self._guard.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def allowed(memory: int | str | None, device: torch.device) -> int:
    """The budget in bytes; torch.compile cannot trace how it is found."""
    size: int = untraced(budget)(memory, device)
    return size
