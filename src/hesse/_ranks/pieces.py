"""Parameters of which each rank holds a piece: where the entries are, and how whole ones are gathered and summed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from hesse._base.batched_backward import as_a_whole
from hesse._ranks.group import Ranks

# PyTorch 2.13 renamed both, and warns of the earlier names.
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Groups(NamedTuple):
    """The processes among which pieces lie.

    Attributes:
        ranks: all that make products together.
        pieces: the group whose ranks hold the pieces of one copy.
        copies: the group whose ranks hold the same piece, of several copies; None where there is one copy.
    """

    ranks: Ranks
    pieces: dist.ProcessGroup
    copies: dist.ProcessGroup | None


class Piece:
    """How a parameter is cut among ranks: along one dimension, in equal parts but for the last ones.

    Args:
        shape: of the parameter.
        dim: the dimension; None for one whose flat entries are cut.
        size, rank: among how many ranks, and which of them this is.

    Attributes:
        here: the shape of this rank's piece.
        counts: how many entries each rank holds.
        ndim: how many dimensions the parameter has; tensors with one more are batches, one sample a row.
    """

    def __init__(self, shape: Sequence[int], dim: int | None, size: int, rank: int) -> None:
        self._shape, self._rank, self.ndim = tuple(shape), rank, len(shape)
        self._is_copied = dim is None
        cut = self._shape if dim is not None else (math.prod(self._shape),)
        dim = dim or 0
        rows = cut[dim]
        part = -(-rows // size)
        self._starts = [min(place * part, rows) for place in range(size + 1)]
        self._outer, self._inner = math.prod(cut[:dim]), math.prod(cut[dim + 1 :])
        self._rows = rows
        self.here = (*cut[:dim], self._starts[rank + 1] - self._starts[rank], *cut[dim + 1 :])
        self.counts = [self._outer * self._inner * (end - start) for start, end in self._ends()]

    def _ends(self) -> list[tuple[int, int]]:
        return list(zip(self._starts, self._starts[1:], strict=False))

    @property
    def count(self) -> int:
        """How many entries this rank holds."""
        return self.counts[self._rank]

    def ranges(self, offset: int) -> Iterator[tuple[int, int]]:
        """Index and number of consecutive entries that this rank holds, of a parameter that begins at ``offset``."""
        start, end = self._ends()[self._rank]
        for outer in range(self._outer):
            yield offset + (outer * self._rows + start) * self._inner, (end - start) * self._inner

    def slice(self) -> Piece | None:
        """How ranks that have the same tensor cut it up among them; None where each has a part of its own."""
        return self if self._is_copied else None

    def held(self, local: Tensor) -> Tensor:
        """Of what this rank has of the parameter, what it holds of a vector."""
        cut = self.slice()
        return local if cut is None else cut.here_of(local)

    def here_of(self, whole: Tensor) -> Tensor:
        """This rank's piece of a whole parameter, in its memory where that is in order."""
        return self.parts(whole)[self._rank].reshape(self.here)

    def whole(self, parts: Sequence[Tensor]) -> Tensor:
        """The parameter, of the flat entries of each rank, which may be a batch with one sample a row."""
        batch = parts[0].shape[:-1]
        views = [
            part.view(*batch, self._outer, (end - start) * self._inner)
            for part, (start, end) in zip(parts, self._ends(), strict=True)
        ]
        return torch.cat(views, dim=-1).view((*batch, *self._shape))

    def parts(self, whole: Tensor) -> Sequence[Tensor]:
        """The inverse: the entries of each rank, two-dimensional."""
        lengths = [(end - start) * self._inner for start, end in self._ends()]
        batch = whole.shape[: whole.dim() - self.ndim]
        return whole.reshape(*batch, self._outer, self._rows * self._inner).split_with_sizes(lengths, dim=-1)


class Bundle:
    """Pieces of one dtype that travel together: one collective gathers all of them, and one sums all.

    Args:
        groups: the processes among which they lie.
        pieces: how each is cut.
        what: they are of, for a sentence.
    """

    def __init__(self, groups: Groups, pieces: Sequence[Piece], what: str) -> None:
        self.pieces = list(pieces)
        self._groups, self._what = groups, what
        self._places = [0]
        for piece in pieces:
            self._places.append(self._places[-1] + max(piece.counts))

    def gather(self, pieces: Sequence[Tensor]) -> list[Tensor]:
        """Whole parameters of the pieces of all ranks, or as many of each as the pieces have rows."""
        batch = pieces[0].shape[: pieces[0].dim() - len(self.pieces[0].here)]
        flat = pieces[0].new_zeros(*batch, self._places[-1])
        for place, piece, given in zip(self._places, self.pieces, pieces, strict=False):
            flat[..., place : place + piece.count] = given.reshape(*batch, piece.count)
        ranks, group = self._groups.ranks, self._groups.pieces
        found = flat.new_empty(len(self.pieces[0].counts), *flat.shape)
        ranks.step(
            f"the gathering of {self._what}",
            lambda: _all_gather(found.view(-1), flat.view(-1), group=group, async_op=True),
        )
        return [
            piece.whole([part[..., place : place + count] for part, count in zip(found, piece.counts, strict=True)])
            for place, piece in zip(self._places, self.pieces, strict=False)
        ]

    def sum(self, wholes: Sequence[Tensor], weight: float) -> list[Tensor]:
        """This rank's piece of the sum over ranks of weighted whole tensors; nothing of a rank without a weight."""
        dtype = torch.promote_types(wholes[0].dtype, torch.float32)
        batch = wholes[0].shape[: wholes[0].dim() - self.pieces[0].ndim]
        here = wholes[0].new_zeros(len(self.pieces[0].counts), *batch, self._places[-1], dtype=dtype)
        if weight:
            for place, piece, whole in zip(self._places, self.pieces, wholes, strict=False):
                for row, part, count in zip(here, piece.parts(whole), piece.counts, strict=True):
                    row[..., place : place + count].view(part.shape).copy_(part)
            here *= weight
        ranks, group, copies = self._groups
        found = here.new_empty(here.shape[1:])
        what = f"the sum of {self._what}"
        ranks.step(what, lambda: _reduce_scatter(found.view(-1), here.view(-1), group=group, async_op=True))
        if copies is not None:
            ranks.step(what, lambda: dist.all_reduce(found, group=copies, async_op=True))
        return [
            found[..., place : place + piece.count].view(*batch, *piece.here).to(whole.dtype)
            for place, piece, whole in zip(self._places, self.pieces, wholes, strict=False)
        ]


class Share:
    """What this rank's part of a function counts in the sum over ranks.

    Attributes:
        weight: that; known before a gradient is taken.
        is_idle: whether sums are not needed now, but only what they depend on: they are zeros, and cost nothing.
    """

    weight: float | None = None
    is_idle = False


class Gather(Function):
    """Pieces to whole parameters. Its transpose adds up over ranks, each with its weight.

    Cotangents of whole parameters are this rank's alone, and in units of its weight. So derivatives of any order are
    those of the weighted sum of all ranks' functions.
    """

    @staticmethod
    def forward(ctx: Any, bundle: Bundle, share: Share, *pieces: Tensor) -> tuple[Tensor, ...]:
        """Whole parameters."""
        ctx.bundle, ctx.share = bundle, share
        return tuple(as_a_whole(lambda pieces, _: bundle.gather(pieces), pieces))  # type: ignore[arg-type]  # no None

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """This rank's pieces of the sum."""
        return (None, None, *Sum.apply(ctx.bundle, ctx.share, *cotangents))  # type: ignore[no-untyped-call]  # no types there


class Sum(Function):
    """The transpose of :class:`Gather`."""

    @staticmethod
    def forward(ctx: Any, bundle: Bundle, share: Share, *wholes: Tensor) -> tuple[Tensor, ...]:
        """Pieces of the weighted sum over ranks."""
        ctx.bundle, ctx.share = bundle, share
        weight = share.weight
        if share.is_idle:
            return tuple([whole.new_zeros(piece.here) for piece, whole in zip(bundle.pieces, wholes, strict=True)])
        assert weight is not None
        return tuple(as_a_whole(lambda wholes, _: bundle.sum(wholes, weight), wholes))  # type: ignore[arg-type]  # no None

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """Whole tensors, in units of this rank's weight."""
        return (None, None, *gathered(ctx.bundle, ctx.share, cotangents))


def gathered(bundle: Bundle, share: Share, pieces: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Whole parameters, which autograd follows to their pieces."""
    found: tuple[Tensor, ...] = Gather.apply(bundle, share, *pieces)  # type: ignore[no-untyped-call]  # no types there
    return found
