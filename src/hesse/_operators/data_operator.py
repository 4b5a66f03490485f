"""``DataOperator``: a weighted sum over data of what is linearized at each batch, as an operator, and its blocks."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Self

from torch import Tensor

from hesse._base import trees
from hesse._base.several_ranks import own_rows
from hesse._base.space import Space
from hesse._base.trees import Spec, dotted_name
from hesse._data.batches import Batches
from hesse._data.cut_model import CutModel
from hesse._data.models import Objective
from hesse._data.options import DataKeywords, DataOptions
from hesse._data.parameters import matching
from hesse._linearize.engines import Engines
from hesse._linearize.guard import Guard
from hesse._operators.block import Block
from hesse._operators.data_point import DataPoint, MakeTerm
from hesse._operators.function_point import FunctionPoint
from hesse._operators.parallel_point import ParallelPoint
from hesse._operators.point import PointOperator
from hesse._operators.sharded_point import ShardedPoint
from hesse._operators.shared_point import SharedPoint
from hesse._operators.sharing import share_data
from hesse._operators.terms import Part
from hesse._ranks.group import Ranks

Names = str | Sequence[str]
"""A name or glob of parameters, the name of a layer, or a list of these."""


class Where(NamedTuple):
    """What another point has of its own: data, and values of the parameters, on this rank."""

    data: Any
    leaves: list[Tensor] | None


class DataOperator(PointOperator):
    r"""A weighted sum :math:`\sum_b w_b A_b / \sum_b w_b` over batches of data; what the four operators share.

    Nothing but the first batch is looked at before the first product, value or gradient is asked for; one pass over
    the data gives all three.
    """

    _point: DataPoint | FunctionPoint | SharedPoint
    __signature__: inspect.Signature

    def __init_subclass__(cls) -> None:
        """Show the keywords that the four operators share in their signatures, for ``help`` and notebooks."""
        super().__init_subclass__()
        own = inspect.signature(cls.__init__)
        shown = [parameter for parameter in own.parameters.values() if parameter.name not in ("self", "options")]
        defaults = {field.name: field.default for field in dataclasses.fields(DataOptions)}
        shared = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=annotation.__forward_arg__
            )
            for name, annotation in DataKeywords.__annotations__.items()
        ]
        cls.__signature__ = own.replace(parameters=[*shown, *shared])

    def __init__(
        self,
        make_objective: Callable[[], Objective],
        make_term: MakeTerm,
        data: Any,
        options: DataOptions,
        watched: Callable[[], Iterable[tuple[str, Tensor]]],
        ranks: Ranks | None = None,
    ) -> None:
        self._make_objective, self._make_term = make_objective, make_term
        self._data, self._options, self._watched = data, options, watched
        self.ranks = ranks
        self._move(None, Engines(options), None)

    def _move(self, where: Where | None, engines: Engines, earlier: DataPoint | SharedPoint | None) -> None:
        """Take the point as it is now, but for what ``where`` has of its own."""
        data, leaves = where or (None, None)
        if data is not None:
            self._data = data
        ranks = self.ranks

        def make_objective() -> Objective:
            objective = self._make_objective()
            if leaves is not None:
                objective.move(leaves)
            return objective

        def make(objective: Objective, options: DataOptions, seed: int | None = None) -> DataPoint:
            name = objective.name
            before = earlier.local if isinstance(earlier, SharedPoint) else earlier
            assert before is None or isinstance(before, DataPoint)
            batches = Batches(
                self._data,
                objective.device,
                name,
                pairs=objective.known is not None,
                may_be_empty=ranks is not None,
                most=None if ranks is None else own_rows(self._data, ranks.size, ranks.rank),
            )
            guard = Guard(name, self._watched(), remedy="at()")
            model = objective.model
            if isinstance(model, CutModel):
                assert ranks is not None
                kind = ShardedPoint if model.teams is None else ParallelPoint
                return kind(ranks, model, objective, self._make_term, batches, options, engines, guard, seed)
            return DataPoint(
                objective,
                self._make_term,
                batches,
                options,
                engines,
                guard,
                None if before is None else before.plan,
                seed,
                is_other=data is not None,
                is_part=ranks is not None,
            )

        point: DataPoint | SharedPoint
        if ranks is None:
            point = make(make_objective(), self._options)
        else:
            name = type(self).__name__
            point = share_data(ranks, name, make_objective, make, self._options, self._data, is_new=earlier is None)
        super().__init__(point, point.whole, point.variables, point.variables, symmetric=True)

    def at(self, *, data: Any = None, parameters: Any = None) -> Self:
        """The operator of the same model and loss as they are now, or at other values of its parameters.

        Args:
            data: other data, in any form that the operator takes; the same data when left out. For one batch at each
                step of a training, give that batch: its loss is the operator's, whatever its number of rows, and
                compiled programs serve all batches of the same shapes.
            parameters: other values, structured like them, which are copied; those of the model when left out. The
                model stays as it is.
        """
        if data is None and parameters is None:
            return self._moved(None)
        leaves = None if parameters is None else self._values(parameters)
        return self._moved(Where(data, leaves))

    def _values(self, parameters: Any) -> list[Tensor]:
        """Copies of this rank's entries of other parameters."""
        entries = self._entries("at()", parameters)
        return [entry.detach().to(leaf, copy=True) for entry, leaf in zip(entries, self.domain.leaves, strict=True)]

    def _entries(self, entry: str, parameters: Any) -> list[Tensor]:
        """Parameters by name, in the order of the operator's own."""
        paths, name = trees.flatten(parameters)[1].paths, type(self).__name__
        missing = [dotted_name(path) for path in self.domain.spec.paths if path not in paths]
        if missing:
            raise ValueError(
                f"parameters given to {entry} should hold all parameters of the {name} by name but lack {missing[0]!r}."
                " Give a dict, as its gradient is one."
            )
        try:
            return self.domain.check(parameters)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"parameters given to {entry} do not fit those of the {name}: {error}") from error

    @property
    def value(self) -> Tensor:
        """The loss over all data, a tensor without dimensions."""
        self._point.guard.check()
        return self._point.value

    @property
    def gradient(self) -> Any:
        """Its gradient, structured like the parameters."""
        self._point.guard.check()
        return self.domain.unflatten(self._point.gradient)

    def loss_at(self, parameters: Any) -> Tensor:
        """The loss over all data at other values of the parameters, structured like them; autograd follows it."""
        self._point.guard.check()
        return self._point.loss_at(self._entries("loss_at()", parameters))

    def block(self, rows: Names, columns: Names | None = None) -> Block:
        """The block of some parameters by others.

        Args:
            rows: the parameters whose structure the product has: a name, a glob, a layer's name, or a list of them.
            columns: the parameters whose structure the vector has; the same as ``rows`` when left out.

        Raises:
            KeyError: no parameter matches.
        """
        rows_, columns_ = self._positions(rows), self._positions(rows if columns is None else columns)
        if rows_ != columns_:
            self._require_whole("a block of some parameters by others")
        return self._block(rows_, columns_)

    def blocks(self, by: Literal["parameter", "layer"] = "parameter") -> dict[str, Block]:
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
        return {name: self._block(tuple(group), tuple(group)) for name, group in groups.items()}

    def _names(self) -> list[str]:
        return [dotted_name(path) for path in self.domain.spec.paths]

    def _positions(self, part: Names) -> tuple[int, ...]:
        names = self._names()
        wanted = [part] if isinstance(part, str) else list(part)
        found = set()
        for pattern in wanted:
            places = [position for position, name in enumerate(names) if matching(name, pattern)]
            if not places:
                raise KeyError(f"The operator has no parameter {pattern!r}: it has {', '.join(names)}.")
            found.update(places)
        return tuple(sorted(found))

    def _block(self, rows: tuple[int, ...], columns: tuple[int, ...]) -> Block:
        return Block(self._point, Part(columns, rows), _part(self.domain, columns), _part(self.domain, rows))


def _part(space: Space, positions: tuple[int, ...]) -> Space:
    paths = tuple([space.spec.paths[position] for position in positions])
    names = [dotted_name(path) for path in paths]
    spec = Spec(lambda leaves: dict(zip(names, leaves, strict=True)), tuple([(name,) for name in names]), length=None)
    return space.part(positions, spec, "block")
