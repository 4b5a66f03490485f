"""``Engines``: what linearizes the maps of one operator at all of its points, the tape or programs, decided once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch

from hesse._autograd.captured import captured_among
from hesse._autograd.reading import Found, Reading
from hesse._base.memory import budget, readable
from hesse._linearize import tape
from hesse._linearize.choice import Choice, EngineName
from hesse._linearize.compiled import EXCEPTION, Compiled
from hesse._linearize.guard import Remembered
from hesse._linearize.options import Options
from hesse._linearize.protocol import Direction, Leaves, Linearization, Map
from hesse._linearize.shared import Shared

if TYPE_CHECKING:
    from hesse._linearize.program.backends import Backend

Kind = Literal["gradient", "prediction", "curvature", "jacobian"]
"""Which map: a loss's gradient by the variables, a prediction, a loss's gradient by the prediction, a function."""

Linearize = Callable[[Kind, Map, Leaves, Any], Linearization]
"""Linearizes a map at a point; the last argument is what the map was made of, beside what its function captures."""

_DIRECTIONS: dict[Kind, tuple[Direction, ...]] = {
    "gradient": ("rmatvec",),
    "prediction": ("matvec", "rmatvec"),
    "curvature": ("rmatvec",),
    "jacobian": ("rmatvec", "matvec"),
}

# An operator that has made so many products decides, once, as if ten times as many were to come.
COUNT = 1000
# Fewer expected products are not worth the two that measure them.
FEW = 32
# The seconds of all expected products must be this multiple of the price of a program.
MARGIN = 10
# Seconds that compiling takes at most: a fixed part, and one for each node of the tape's graph. Two cores took 2.6 s
# for 41 nodes and 38 s for the 185 of a convolutional network.
FIXED_PRICE, NODE_PRICE = 4.0, 0.25
# A program that gains less is not worth its memory.
_GAIN = 1.05
# Loading the compiler into a process took 180 to 400 MiB.
_LOADED = 512 * 2**20


class Engines:
    """What linearizes maps at every point of one operator.

    Args:
        options: of the operator.
        func: the function whose captured tensors and values programs depend on; None where each point names its own.
        backend: how programs run, for tests; Inductor when left out.

    Attributes:
        engine: ``"tape"`` or ``"compiled"``, what linearizes now.
        made: products made so far, at all points.
        next_decision: the number of products at which a decision is due.
        lone: whether the next point is made for one product.
        is_automatic: whether the tape was asked for until programs pay, and where there are none.
        reading: of the function.
    """

    def __init__(self, options: Options, func: Any = None, backend: Backend | None = None) -> None:
        self.options = options
        asked = options.engine_name
        self.is_automatic = asked == "auto"
        self.engine: EngineName = "compiled" if asked == "compiled" else "tape"
        self.made = 0
        self.next_decision = float("inf")
        self._is_fixed = isinstance(options.engine, Choice)
        self.lone = options.engine.lone if isinstance(options.engine, Choice) else (options.expect or FEW) == 1
        self._is_open = self.is_automatic
        self._func, self._backend = func, backend
        self.reading = Reading(func)
        self._captured: tuple[Found, Remembered] | None = None
        self._by_kind: dict[Kind, Compiled] = {}
        self._refusal: str | None = None
        self._seconds: dict[EngineName, float] = {}
        self._why = "few products so far" if self._is_open else "as asked for"
        if self._is_open:
            self.next_decision = 0 if (options.expect or 0) >= FEW else COUNT

    @property
    def is_open(self) -> bool:
        """Whether programs may still take the tape's place."""
        return self._is_open

    def linearize(
        self, kind: Kind, map: Map, point: Leaves, arguments: Any, *, name: str, shared: Shared | None = None
    ) -> Linearization:
        """The linearization of a map of that kind; ``shared`` belongs to all maps of one point."""
        engine = self.engine if shared is None else shared.engine
        # One refused kind of map refuses all, so that one name says what linearizes.
        if engine == "tape" or (self.is_automatic and self.refusal is not None):
            return tape.linearize(map, point, create_graph=self.options.create_graph, name=name)
        lone = self.lone and kind == "gradient" and shared is None
        programs = self._by_kind.get(kind) or self.programs_of(kind)
        return programs.linearize(map, point, arguments, name=name, shared=shared, lone=lone)

    def captured(self, *, was_evaluated: bool) -> Remembered:
        """The tensors that the function captures, as they are now; ``was_evaluated`` since they were last looked for.

        What an earlier point has remembered serves further while nothing has changed.
        """
        found = self.reading.now() if was_evaluated else self.reading.last()
        if self._captured is None or self._captured[0] is not found or not self._captured[1].is_unchanged():
            self._captured = found, Remembered(captured_among(found))
        return self._captured[1]

    def forget(self) -> None:
        """Let go of what the function captures; a further point looks for it anew."""
        self.reading.forget()
        self._captured = None
        for programs in self._by_kind.values():
            programs.forget()

    def programs_of(self, kind: Kind) -> Compiled:
        """The programs for maps of that kind."""
        if kind not in self._by_kind:
            options = self.options
            self._by_kind[kind] = Compiled(
                self.reading,
                _DIRECTIONS[kind],
                verify=options.verify,
                or_tape=self.is_automatic,
                backend=self._backend,
                # Over data the budget holds all batches, and a program serves one of them.
                most_kept=None if options.memory is None or self._func is None else budget(options.memory, _CPU),
            )
        return self._by_kind[kind]

    @property
    def refusal(self) -> str | None:
        """Why there is no program, or None."""
        # No generator: this is asked at each point.
        for kind in self._by_kind.values():
            if kind.refusal:
                return self._refusal or kind.refusal
        return self._refusal

    @property
    def programs(self) -> int:
        """How many programs were made, at all points so far."""
        return sum(len(kind.programs) for kind in self._by_kind.values())

    @property
    def seconds(self) -> float:
        """Spent on capturing and compiling, at all points so far."""
        return sum(kind.seconds for kind in self._by_kind.values())

    @property
    def tape_seconds(self) -> float | None:
        """What a product takes on the tape, once it was measured."""
        return self._seconds.get("tape")

    @property
    def reason(self) -> str:
        """Why this engine, with the figures."""
        if self.refusal:
            return f"no program can be had: {self.refusal}"
        exceptions = sum(kind.exceptions for kind in self._by_kind.values())
        if exceptions:
            places = "1 point or batch" if exceptions == 1 else f"{exceptions} points or batches"
            return f"{self._measured}; by the tape at {places}, where {EXCEPTION}"
        return self._measured

    @property
    def _measured(self) -> str:
        if not self._seconds:
            return self._why
        each = [f"{1e3 * seconds:.3g} ms by the {name} engine" for name, seconds in self._seconds.items()]
        return f"a product takes {', '.join(each)}; {self._why}"

    def expected(self, products: int) -> int:
        """How many products to count on, when so many more are announced; takes note that this was asked."""
        announced = self.made + products
        if self.made >= COUNT:
            announced = max(announced, 10 * self.made)
        self.next_decision = COUNT if self.made < COUNT else float("inf")
        return max(announced, self.options.expect or 0)

    def pays(self, expected: int, seconds: float, nodes: int, kept: int, device: torch.device) -> bool:
        """Whether to try programs: for so many products of so many seconds, on a graph of so many nodes.

        The room that a program needs beside ``kept`` bytes counts too: where a machine has none left it may kill the
        process, and there is nothing to go back to.
        """
        self._seconds["tape"] = seconds
        price = FIXED_PRICE + NODE_PRICE * nodes
        if expected * seconds < MARGIN * price:
            self._why = f"{expected} products are expected, too few to pay for {price:.0f} s of compiling"
            return False
        needed, allowed = 2 * kept + _LOADED, budget(self.options.memory, device)
        if needed > allowed:
            self._why = f"a program may take {readable(needed)}, and {readable(allowed)} may be taken"
            return False
        return True

    def leave(self, asked: int) -> None:
        """A point is left for another, after so many products or readings of its value or gradient."""
        if not self._is_fixed:
            self.lone = asked <= 1

    def stay(self) -> None:
        """Decide nothing more."""
        self._is_open, self.next_decision = False, float("inf")

    def begin_trial(self) -> None:
        """From now on maps are linearized by programs, which are compared with the tape."""
        self.stay()
        self.engine = "compiled"

    def end_trial(self, tape_seconds: float, seconds: float) -> bool:
        """Whether programs stay: a product took so long by the tape, and so long by them."""
        self._seconds = {"tape": tape_seconds, "compiled": seconds}
        self._why = "measured once"
        if _GAIN * seconds >= tape_seconds:
            self.engine = "tape"
        return self.engine == "compiled"

    def refuse(self, why: str) -> None:
        """There is no program: the tape from now on."""
        self.stay()
        self.engine, self._refusal = "tape", why

    def follow(self, engine: EngineName) -> None:
        """Linearize as another process or rank decided."""
        self.stay()
        self.engine, self._why = engine, "as decided before"


_CPU = torch.device("cpu")
