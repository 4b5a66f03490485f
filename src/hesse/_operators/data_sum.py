"""``DataSum``: a weighted sum over data of what is linearized at each batch, as an operator; and its blocks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from torch import Tensor

from hesse._base import trees
from hesse._base.errors import ClosedError
from hesse._base.space import Space
from hesse._base.trees import Spec, dotted_name
from hesse._data.automatic import DataEngine
from hesse._data.batches import Batches
from hesse._data.explanation import DataExplanation
from hesse._data.objective import Objective
from hesse._data.parameters import matching
from hesse._data.settings import Settings
from hesse._linearize.guard import Guard
from hesse._linearize.protocol import Selection
from hesse._operators.operator import Operator, require_engine
from hesse._operators.summation import MakeTerm, Summation

Part = str | Sequence[str]
"""A name or glob of parameters, the name of a layer, or a list of these."""


class DataSum(Operator):
    r"""A weighted sum :math:`\sum_b w_b A_b / \sum_b w_b` over batches of data; what the four operators share.

    Nothing but the first batch is looked at before the first product, value or gradient is asked for; one pass over
    the data gives all three.
    """

    symmetric = True
    domain: Space
    range: Space

    def __init__(
        self,
        make_objective: Callable[[], Objective],
        make_term: MakeTerm,
        data: Any,
        settings: Settings,
        watched: Callable[[], Iterable[tuple[str, Tensor]]],
    ) -> None:
        self._make_objective, self._make_term = make_objective, make_term
        self._data, self._settings, self._watched = data, settings, watched
        self._engine = DataEngine(settings.engine, settings.verify, expected=settings.expect, memory=settings.memory)
        self._look(None)

    def _look(self, earlier: Summation | None) -> None:
        """Take the point as it is now."""
        objective = self._make_objective()
        self.domain = self.range = Space(objective.leaves, objective.spec, objective.name)
        self.shape = (self.domain.size, self.domain.size)
        self.dtype, self.device = self.domain.dtype, self.domain.device
        self._guard = Guard(objective.name, self._watched(), remedy="at()")
        plan = None if earlier is None else earlier.plan
        batches = Batches(self._data, objective.device, objective.name)
        self._sum: Summation | None = Summation(objective, self._make_term, batches, self._settings, self._engine, plan)

    @property
    def summation(self) -> Summation:
        """The passes over the data at this point; raises when the point is gone."""
        if self._sum is None:
            raise ClosedError("A product was asked of an operator that is closed. Make a new one with at() or anew.")
        self._guard.check()
        return self._sum

    @property
    def value(self) -> Tensor:
        """The loss over all data, a tensor without dimensions."""
        return self.summation.value

    @property
    def gradient(self) -> Any:
        """Its gradient, structured like the parameters."""
        return self.domain.unflatten(self.summation.gradient)

    def loss_at(self, parameters: Any) -> Tensor:
        """The loss over all data at other values of the parameters, structured like them; autograd follows it."""
        return self.summation.loss_at(trees.flatten(parameters)[0])

    def matmat(self, V: Tensor) -> Tensor:
        """A·V for columns (n, k), in one pass over the data."""
        everything = tuple(range(len(self.domain.leaves)))
        return self.summation.multiply(V.mT, Selection(everything, everything), self.domain, self.domain).mT

    def expect(self, products: int) -> None:
        """So many products are about to be asked for: ``engine="auto"`` decides by that."""
        self._engine.expect(products)

    def settle(self) -> dict[str, str]:
        """Multiply vectors one by one, where no other way was asked for, by an engine that does not change."""
        return self.summation.settle()

    def adopt(self, settled: dict[str, str]) -> None:
        """Multiply as the other process did; batches must be cut up as they were there."""
        # What does not say its engine was written before there was more than one.
        now = self.summation.settle(settled.get("engine", "tape"))
        require_engine(self.domain.name, settled.get("engine", "tape"), now["engine"])
        rows = now["rows"]
        if rows != settled.get("rows"):
            raise ValueError(
                f"The {self.domain.name} cut batches into pieces of {settled.get('rows')} rows before and of {rows}"
                " now, so its digits would differ. Give memory=, the same each time."
            )

    def at(self) -> Self:
        """The operator of the same model (or inputs), loss and data as they are now."""
        fresh = copy.copy(self)
        fresh._look(self._sum)
        return fresh

    def block(self, rows: Part, columns: Part | None = None) -> DataBlock:
        """The block of some parameters by others.

        Args:
            rows: the parameters whose structure the product has: a name, a glob, a layer's name, or a list of them.
            columns: the parameters whose structure the vector has; the same as ``rows`` when left out.

        Raises:
            KeyError: no parameter matches.
        """
        return DataBlock(self, self._positions(rows), self._positions(rows if columns is None else columns))

    def blocks(self, by: str = "parameter") -> dict[str, DataBlock]:
        """The diagonal blocks, by the name of the parameter or of the layer.

        Args:
            by: ``"parameter"``, or ``"layer"`` for the parameters that share a module.

        Raises:
            ValueError: ``by`` is neither.
        """
        if by not in ("parameter", "layer"):
            raise ValueError(f"by given to blocks should be 'parameter' or 'layer' but is {by!r}.")
        groups: dict[str, list[int]] = {}
        for position, name in enumerate(self._names()):
            groups.setdefault(name if by == "parameter" else name.rpartition(".")[0], []).append(position)
        return {name: DataBlock(self, tuple(group), tuple(group)) for name, group in groups.items()}

    def _names(self) -> list[str]:
        return [dotted_name(path) for path in self.domain.spec.paths]

    def _positions(self, part: Part) -> tuple[int, ...]:
        names = self._names()
        wanted = [part] if isinstance(part, str) else list(part)
        found = set()
        for pattern in wanted:
            places = [position for position, name in enumerate(names) if matching(name, pattern)]
            if not places:
                raise KeyError(f"The operator has no parameter {pattern!r}: it has {', '.join(names)}.")
            found.update(places)
        return tuple(sorted(found))

    def flatten(self, tree: Any) -> Tensor:
        """A vector structured like the parameters as a flat one (n,)."""
        return self.domain.flatten(tree)

    def unflatten(self, vector: Tensor) -> Any:
        """A flat vector (n,) as one structured like the parameters: a dict by name."""
        return self.domain.unflatten(vector)

    def explain(self) -> DataExplanation:
        """How products are made, and why; ``print`` it."""
        return self.summation.explain()

    def _engine_name(self) -> str:
        return self._engine.now.engine

    def close(self) -> None:
        """Free the kept batches; products raise from then on."""
        self._sum = None
        self._guard.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class DataBlock(Operator):
    """A block of an operator over data, by parts of its parameters; made by ``block`` and ``blocks``.

    Shares the kept batches of its operator, and is stale and closed with it.
    """

    domain: Space
    range: Space

    def __init__(self, whole: DataSum, rows: tuple[int, ...], columns: tuple[int, ...]) -> None:
        self._whole = whole
        self._rows, self._columns = rows, columns
        self.range, self.domain = _part(whole.domain, rows), _part(whole.domain, columns)
        self.shape = (self.range.size, self.domain.size)
        self.dtype, self.device = whole.dtype, whole.device
        self.symmetric = rows == columns
        self.positive_semidefinite = self.symmetric and whole.positive_semidefinite

    def expect(self, products: int) -> None:
        """As the whole."""
        self._whole.expect(products)

    def settle(self) -> dict[str, str]:
        """As the whole."""
        return self._whole.settle()

    def adopt(self, settled: dict[str, str]) -> None:
        """As the whole."""
        self._whole.adopt(settled)

    def _engine_name(self) -> str:
        return self._whole._engine_name()

    def matmat(self, V: Tensor) -> Tensor:
        """The block times columns (n, k), in one pass over the data."""
        return self._multiply(V, self._columns, self._rows, self.domain, self.range)

    def rmatmat(self, U: Tensor) -> Tensor:
        """Its transpose times columns (m, k)."""
        return self._multiply(U, self._rows, self._columns, self.range, self.domain)

    def _multiply(
        self, V: Tensor, sources: tuple[int, ...], targets: tuple[int, ...], source: Space, target: Space
    ) -> Tensor:
        product = self._whole.summation.multiply(V.mT, Selection(sources, targets), source, target).mT
        return product.to(self.dtype)


def _part(space: Space, positions: tuple[int, ...]) -> Space:
    paths = tuple([space.spec.paths[position] for position in positions])
    names = [dotted_name(path) for path in paths]
    spec = Spec(lambda leaves: dict(zip(names, leaves, strict=True)), tuple([(name,) for name in names]), length=None)
    return Space([space.leaves[position] for position in positions], spec, "block")
