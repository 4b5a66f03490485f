"""How an operator over data makes its products, in figures and in a sentence."""

from __future__ import annotations

import dataclasses

from hesse._base.memory import readable


@dataclasses.dataclass(frozen=True)
class DataExplanation:
    """How the products of an operator over data are made.

    Attributes:
        engine: what linearizes a batch: "tape", "captured" or "compiled".
        reduction: "mean" or "sum", how batches are put together.
        pieces: batches, or pieces of them, that were linearized; 0 before the first pass.
        kept: how many of them stay linearized between products; the others are evaluated anew in each.
        bytes_kept: memory that the kept ones take, in bytes.
        budget: memory that may be taken, in bytes.
        rows: at most how many rows of a batch are linearized at once; None for whole batches.
        reason: why.
        batching: how many vectors are multiplied at each piece: "loop", "vmap", or "undecided".
        programs: how many programs were compiled so far, one for each layout of batches and kind of map.
        compile_seconds: what capturing and compiling them has taken so far.
        refusal: why ``engine="auto"`` goes on with the tape, or None.
        engine_reason: why this engine, with the figures.
    """

    engine: str
    reduction: str
    pieces: int
    kept: int
    bytes_kept: int
    budget: int
    rows: int | None
    reason: str
    batching: str
    programs: int = 0
    compile_seconds: float = 0.0
    refusal: str | None = None
    engine_reason: str = "as asked for"

    def __str__(self) -> str:
        cut = "whole batches" if self.rows is None else f"at most {self.rows} rows of a batch at once"
        held = (
            f"{self.kept} of {self.pieces} pieces stay linearized, in {readable(self.bytes_kept)} of"
            f" {readable(self.budget)}"
            if self.pieces
            else f"no pass over the data yet, {readable(self.budget)} to keep batches in"
        )
        compiled = f", {self.programs} programs compiled in {self.compile_seconds:.1f} s" if self.programs else ""
        return (
            f"engine {self.engine} ({self.engine_reason}){compiled}; {self.reduction} over batches; {cut}"
            f" ({self.reason}); {held}; many vectors: {self.batching}"
        )
