"""``Block``: a block of an operator at a point."""

from __future__ import annotations

from hesse._base.space import Space
from hesse._operators.point import Point, PointOperator
from hesse._operators.terms import Part


class Block(PointOperator):
    """A block of an operator at a point, by parts of its variables; it shares the point, and is stale with it."""

    def __init__(self, point: Point, part: Part, domain: Space, range_: Space) -> None:
        super().__init__(point, part, domain, range_, symmetric=part.sources == part.targets)

    def close(self) -> None:
        """Nothing of its own to free: the whole operator owns the point."""
