"""``SharedPoint``: the sum of the points of several ranks, each of its own data or function, as one point."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._base.space import Space, Splits
from hesse._linearize.chunks import Rows
from hesse._linearize.unit_vectors import UnitVectors
from hesse._operators import materialize
from hesse._operators.block import Block
from hesse._operators.data_point import DataPoint
from hesse._operators.function_point import FunctionPoint
from hesse._operators.linear_map import Decisions
from hesse._operators.point import Point, PointOperator
from hesse._operators.terms import Part
from hesse._ranks.group import Ranks


def _of_local(name: str) -> Any:
    """What the point of this rank has by that name."""
    return property(lambda self: getattr(self.local, name))


class SharedPoint(Point):
    r"""The matrix :math:`\sum_r s_r A_r` of the points :math:`A_r` of all ranks, each with its share :math:`s_r`.

    A rank computes as it would alone; one reduction for each product is outermost. So an error, also one in a check
    that comes before the product, is the same on all ranks.

    Attributes:
        local: this rank's point.
        share: this rank's share, s.
    """

    def __init__(self, ranks: Ranks, local: DataPoint | FunctionPoint, share: float) -> None:
        # Nothing of this point's own is made by the base class: all that it would hold is the local point's.
        self.ranks, self.local, self.share = ranks, local, share
        self.variables, self.whole, self.engines = local.variables, local.whole, local.engines
        self.create_graph, self.autocast = False, local.autocast
        self._name = local.variables.name
        self._what = f"{self._name} {ranks.number()}"
        # Products that are due to be begun by the next multiplication.
        self._due = 0
        self._targets: dict[Part, Space] = {}
        self._value, self._gradient = self._value_and_gradient()

    @property
    def value(self) -> Tensor:
        """The loss over all ranks."""
        return self._value.clone()

    @property
    def gradient(self) -> Tensor:
        """Its gradient as a flat vector."""
        return self._gradient.clone()

    def _value_and_gradient(self) -> tuple[Tensor, Tensor]:
        """Both over all ranks, which costs nothing later: a rank may read them without the others."""
        local, space = self.local, self.variables
        value = local.value

        def both() -> Tensor:
            parts = [local.gradient.reshape(-1), value.reshape(-1).to(space.device, space.dtype)]
            return torch.cat(parts) * self.share

        like = torch.empty(space.size + value.numel(), dtype=space.dtype, device=space.device)
        total = self.total("value and gradient", both, like, ())
        return total[space.size :].reshape(value.shape).to(value.dtype), total[: space.size].clone()

    def total(
        self, what: str, compute: Callable[[], Tensor], like: Tensor, vector: Sequence[Tensor], key: str = ""
    ) -> Tensor:
        """The sum over ranks of what each computes, a flat vector like an empty one."""
        assert self.ranks is not None
        return self.ranks.total(f"{what} of {self._what}", compute, like, vector, key)

    @property
    def rank(self) -> int:
        """Which of the ranks this is."""
        assert self.ranks is not None
        return self.ranks.rank

    def begin(self, count: int) -> None:
        """Products are asked for; each rank begins them where an error reaches the others."""
        self._due = count

    def _begun(self) -> bool:
        """Whether this rank has a part in the product that begins."""
        count, self._due = self._due, 0
        if count:
            self.local.begin(count)
        return self.share != 0

    def multiply(self, entries: list[Tensor], part: Part, transposed: bool = False) -> list[Tensor]:
        """The product with one vector, leaf by leaf, over all ranks."""
        target = self._target(part)

        def own() -> Tensor:
            if not self._begun():
                return torch.zeros_like(like)
            return target.join(self.local.multiply(entries, part, transposed)) * self.share

        like = torch.empty(target.size, dtype=target.dtype, device=target.device)
        total = self.total("a product", own, like, entries, _code(part, transposed))
        parts = zip(total.split_with_sizes(target.lengths), target.leaves, strict=True)
        # Not rounded to the dtype of a leaf in half precision: a flat product has more digits.
        return [
            torch.view_as_complex(one.view(*leaf.shape, 2)) if leaf.is_complex() else one.view(leaf.shape)
            for one, leaf in parts
        ]

    def _target(self, part: Part) -> Space:
        if part not in self._targets:
            self._targets[part] = materialize.restricted(self.variables, part.targets)
        return self._targets[part]

    def multiply_rows(
        self,
        rows: Rows,
        part: Part,
        source: Splits,
        target: Space,
        *,
        transposed: bool = False,
        into: materialize.Into | None = None,
        left: int | None = None,
    ) -> Tensor:
        """The product with each row, over all ranks."""
        count = rows.shape[0]

        def own() -> Tensor:
            if not self._begun():
                return torch.zeros_like(like)
            products = self.local.multiply_rows(rows, part, source, target, transposed=transposed, left=left)
            return products.reshape(-1).to(like.dtype) * self.share

        like = torch.empty(count * target.size, dtype=target.dtype, device=target.device)
        # Unit vectors that are made as they are needed are told apart by their places.
        vector: list[Tensor] = []
        key = _code(part, transposed)
        if isinstance(rows, UnitVectors):
            key += f"{rows.key():08x} "
        else:
            vector.append(rows)
        total = self.total(f"{count} products", own, like, vector, key)
        total = total.reshape(count, target.size)
        if into is None:
            return total
        into.add(0, total, 1.0, first=True)
        return into.divided(1.0)

    def expect(self, products: int) -> None:
        """So many products are about to be asked for, on all ranks."""
        self.gather(f"{products} products", lambda: self.local.expect(products))

    def decided(self, operator: PointOperator, earlier: Decisions | None) -> Decisions:
        """How each rank makes its part; in a run that goes on there are as many ranks, and each follows its own."""
        assert self.ranks is not None
        ranks, before = self.ranks, (earlier or {}).get("ranks")
        own = Block(self.local, operator._part, operator.domain, operator.range)

        def decide() -> Decisions:
            if before is not None and len(before) != ranks.size:
                raise ValueError(
                    f"The {self._name} was multiplied by {len(before)} ranks before and is by {ranks.size} now, so its"
                    f" digits would differ. Run {len(before)} ranks, or begin anew with another checkpoint."
                )
            return own.decide_alone(None if before is None else before[ranks.rank])

        return {"ranks": self.gather("decision", decide)}

    def gather(self, what: str, compute: Callable[[], Any]) -> list[Any]:
        """What each rank computes, or one error on all."""
        assert self.ranks is not None
        return self.ranks.gather(f"{what} of {self._what}", compute)

    def left_with_results(self) -> int | None:
        """The least of all ranks: matrices are cut up alike."""
        found = self.gather("memory", self.local.left_with_results)
        return min([size for size in found if size is not None], default=None)

    def inherit(self, earlier: Point) -> None:
        """Of this rank's point."""
        assert isinstance(earlier, SharedPoint)
        self.local.inherit(earlier.local)

    def loss_at(self, x: Any) -> Tensor:
        """Not over ranks, since autograd would follow this rank's part alone."""
        raise NotImplementedError(
            f"loss_at() of a {self._name} over ranks would give this rank's part of the loss. Take at() after a change"
            " of the parameters, and its value."
        )

    # All else is as this rank's point says.
    guard, asked, chunks, engine, is_lone = map(_of_local, ("guard", "asked", "chunks", "engine", "is_lone"))
    terms, relinearize, kept_terms = map(_of_local, ("terms", "relinearize", "kept_terms"))
    left, explain, close = map(_of_local, ("left", "explain", "close"))


def _code(part: Part, transposed: bool) -> str:
    """A few letters that tell parts apart."""
    return f"{zlib.crc32(repr(part).encode()):08x}{'T' * transposed} "
