"""What linearizes the batches of an operator over data: its engines, from point to point, and one point of them."""

from __future__ import annotations

from typing import Any, Literal

from hesse._data.objective import Objective
from hesse._linearize.compiled import Compiled, Shared
from hesse._linearize.engines import Name, Taped, plain_engine
from hesse._linearize.protocol import Direction, Leaves, Linearization, Map

Kind = Literal["gradient", "prediction", "curvature"]
"""A loss's gradient by the variables, a prediction, and a loss's gradient by the prediction."""

_DIRECTIONS: dict[Kind, tuple[Direction, ...]] = {
    "gradient": ("rmatvec",),
    "prediction": ("matvec", "rmatvec"),
    "curvature": ("rmatvec",),
}

TAPE = Taped(create_graph=False)


class Engines:
    """The engines of one operator, one for each kind of map, so that its programs serve every batch and point."""

    def __init__(self, name: Name, verify: bool = True) -> None:
        self.by_kind: dict[Kind, Taped | Compiled] = {
            kind: plain_engine(name, None, directions=directions, create_graph=False, verify=verify)
            for kind, directions in _DIRECTIONS.items()
        }
        self.engine = name
        self.compiles = name != "tape"

    def fall_back(self) -> None:
        """From now on the tape takes what there is no program for."""
        for engine in self.by_kind.values():
            if isinstance(engine, Compiled):
                engine.or_tape = True

    @property
    def refusal(self) -> str | None:
        """Why the tape goes on, where it may, or None."""
        return next((engine.refusal for engine in self.by_kind.values() if engine.refusal), None)

    @property
    def programs(self) -> int:
        """How many programs were made, at all points so far."""
        return sum(len(engine.programs) for engine in self.by_kind.values())

    @property
    def seconds(self) -> float:
        """Spent on capturing and compiling, at all points so far."""
        return sum(engine.seconds for engine in self.by_kind.values())


class Linearizer:
    """Linearizes the maps of batches at one point, where each program is compared with the tape once."""

    def __init__(self, engines: Engines, objective: Objective) -> None:
        self.engines = engines
        self._name = objective.name
        self._shared = Shared(objective.reads)

    def linearize(self, kind: Kind, map: Map, point: Leaves, batch: Any) -> Linearization:
        """The linearization of a map of that kind, which is made of a batch."""
        # What is refused for one kind of map is refused for all, so that one name says what is done.
        engine = self.engines.by_kind[kind] if self.engines.refusal is None else TAPE
        return engine.linearize(map, point, batch, name=self._name, shared=self._shared)
