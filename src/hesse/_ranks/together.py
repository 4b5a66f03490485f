"""Parameters of a function that all ranks evaluate together, of which each rank therefore has the whole derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from hesse._ranks.pieces import Bundle, Groups, Piece


class Together(Bundle):
    """Pieces whose derivatives are not summed over ranks: every rank finds those of the one function.

    Args:
        groups, pieces: as of :class:`Bundle`.
        note: is given derivatives by whole parameters, which are the same on all ranks.
        stay: whether each rank needs its own pieces alone.
    """

    def __init__(
        self, groups: Groups, pieces: Sequence[Piece], note: Callable[[Sequence[Tensor]], None], *, stay: bool
    ) -> None:
        super().__init__(groups, pieces, "parameters of the model")
        self._note, self._stay = note, stay

    def gather(self, pieces: Sequence[Tensor]) -> list[Tensor]:
        """What this rank computes with."""
        return [piece.view_as(piece) for piece in pieces] if self._stay else super().gather(pieces)

    def sum(self, wholes: Sequence[Tensor], weight: float) -> list[Tensor]:
        """This rank's pieces of weighted derivatives."""
        if self._stay:
            return [weight * whole for whole in wholes]
        self._note(wholes)
        return [weight * piece.here_of(whole) for piece, whole in zip(self.pieces, wholes, strict=True)]
