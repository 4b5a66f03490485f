"""``Explanation``: how an operator at a point makes its products, and why."""

from __future__ import annotations

import dataclasses

from hesse._base.memory import readable
from hesse._linearize.choice import Choice, EngineName
from hesse._linearize.chunks import Chunks
from hesse._linearize.engines import Engines
from hesse._sparse.plan import SparsePlan


@dataclasses.dataclass(frozen=True)
class Explanation:
    """How an operator makes its products, and why; ``print`` shows it as labelled lines.

    Attributes:
        engine: ``"tape"`` or ``"compiled"``.
        engine_reason: why this engine, with the figures.
        refusal: why there is no program where one was asked for or tried, or None.
        programs: how many programs were compiled so far, at all points: one for each layout of the inputs and each set
            of Python values that the function reads.
        compile_seconds: what capturing and compiling them took.
        batching: how many vectors are multiplied: ``"loop"``, ``"vmap"``, or ``"undecided"`` before a trial.
        batching_reason: why, with the figures of the trial.
        chunk: vectors that go through the graph at once.
        bytes_each: memory of each of them at the peak of a product, in bytes, as measured; 0 before.
        lone: whether the first product here is one compiled program: the point before was asked for one at most.
        bytes_kept: memory that the point keeps alive between products, in bytes.
        budget: memory that a call may add now, in bytes; over data, memory for kept batches and a product.
        reduction: over data, ``"mean"`` or ``"sum"``; None for a plain function.
        microbatches: over data, batches or microbatches that were linearized; 0 before the first pass.
        kept: how many of them stay linearized between products; the others are evaluated anew in each.
        rows: over data, the most rows of a batch that are linearized at once; None for whole batches.
        rows_reason: why.
        colors: products that ``to_sparse()`` takes, also at points that ``at()`` moves to; None before the first.
        entries: stored entries of the sparse matrix.
    """

    engine: EngineName
    engine_reason: str
    batching: str
    batching_reason: str
    chunk: int
    bytes_kept: int
    budget: int
    refusal: str | None = None
    programs: int = 0
    compile_seconds: float = 0.0
    bytes_each: int = 0
    lone: bool = False
    reduction: str | None = None
    microbatches: int = 0
    kept: int = 0
    rows: int | None = None
    rows_reason: str = ""
    colors: int | None = None
    entries: int = 0

    @staticmethod
    def of(
        engine: EngineName, engines: Engines, chunks: Chunks, bytes_kept: int, budget: int, lone: bool
    ) -> Explanation:
        """What was decided so far."""
        return Explanation(
            engine=engine,
            engine_reason=engines.reason,
            refusal=engines.refusal,
            programs=engines.programs,
            compile_seconds=engines.seconds,
            batching=chunks.chosen or "undecided",
            batching_reason=chunks.reason,
            chunk=chunks.chunk,
            bytes_each=chunks.room.each,
            lone=lone,
            bytes_kept=bytes_kept,
            budget=budget,
        )

    def with_plan(self, plan: SparsePlan | None) -> Explanation:
        """The same, with what the sparse matrix takes, where one was made."""
        if plan is None:
            return self
        return dataclasses.replace(self, colors=plan.num_colors, entries=len(plan.sources))

    @property
    def choice(self) -> Choice:
        """All that was decided, to be given back as ``engine=``; before a trial, many vectors are a loop."""
        if self.batching == "vmap":
            return Choice(self.engine, "vmap", self.chunk, self.rows, self.lone)
        return Choice(self.engine, rows=self.rows, lone=self.lone)

    def __str__(self) -> str:
        compiled = f"; {self.programs} programs in {self.compile_seconds:.1f} s" if self.programs else ""
        lines = {"engine": f"{self.engine} ({self.engine_reason}{compiled})"}
        if self.lone:
            lines["product"] = "one program, nothing kept (the point before was asked for one product at most)"
        if self.reduction is not None:
            whole = "whole batches" if self.rows is None else f"at most {self.rows} rows of a batch at once"
            lines["batches"] = f"{self.reduction} over {whole} ({self.rows_reason})"
            lines["kept"] = (
                f"{self.kept} of {self.microbatches} batches or microbatches, in {readable(self.bytes_kept)}"
                if self.microbatches
                else "no pass over the data yet"
            )
        else:
            lines["kept"] = readable(self.bytes_kept)
        lines["many vectors"] = f"{self.batching} in chunks of {self.chunk} ({self.batching_reason})"
        each = f"{readable(self.bytes_each)} a vector at the peak" if self.bytes_each else "a vector not measured yet"
        lines["memory"] = f"{readable(self.budget)} allowed; {each}"
        if self.colors is not None:
            lines["to_sparse()"] = f"{self.entries} entries from {self.colors} products (colors)"
        return "\n".join(f"{label + ':':<14}{text}" for label, text in lines.items())
