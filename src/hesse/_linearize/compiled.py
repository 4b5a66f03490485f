"""The compiled engine: a captured program, replayed at every point and compared with the tape before it is trusted."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hesse._autograd.agreement import FACTOR
from hesse._autograd.reading import Reading
from hesse._autograd.thread_state import untraced
from hesse._base.devices import States, generator_states, put_back
from hesse._base.errors import CaptureError, StalePointError, warn_caller
from hesse._linearize import tape
from hesse._linearize.comparison import (
    FOUND_WRONG,
    Expected,
    FoundWrongError,
    compare,
    expected_products,
    random_products,
    tensors_of,
)
from hesse._linearize.compiled_linearization import CompiledLinearization
from hesse._linearize.draws import drawing_from
from hesse._linearize.lone_product import LoneProduct
from hesse._linearize.options import Verify
from hesse._linearize.program.explained import described, refused
from hesse._linearize.program.surroundings import Sorted, Surroundings, read_now
from hesse._linearize.protocol import Direction, Leaves, Linearization, Map
from hesse._linearize.shared import Shared
from hesse._rules.scope import transform_level

if TYPE_CHECKING:
    from hesse._linearize.program.backends import Backend
    from hesse._linearize.program.program import Form, Program
    from hesse._linearize.program.saved import Origin

EXCEPTION = "the function takes a norm, deviation or distance that is zero, whose second derivative no program has"

# A function that needs more programs than this changes something at each point.
PROGRAMS = 8


class Compiled:
    """Makes linearizations by programs, and keeps the programs of one function.

    Args:
        reading: of the user's function, or of whatever else reaches all that a map reads beside its arguments.
        directions: the products that are wanted.
        verify: compare with the tape also at points 2, 4, 8, … of a program (True), or at every point ("always").
        or_tape: go on with the tape, and one warning, where no program can be had.
        backend: what makes graphs fast; Inductor when left out.
        most_kept: bytes that a point may keep between products, as far as computing again helps.

    Attributes:
        programs: all that were made.
        exceptions: how many points the tape has linearized, where a rule is missing in their program.
    """

    def __init__(
        self,
        reading: Reading,
        directions: Sequence[Direction],
        *,
        verify: Verify = True,
        or_tape: bool = False,
        backend: Backend | None = None,
        most_kept: int | None = None,
    ) -> None:
        self.reading = reading
        self._sorted: Sorted | None = None
        self.verify = verify
        self.programs: list[Program] = []
        self.exceptions, self._follows = 0, False
        self._directions = directions
        self.or_tape = or_tape
        self._backend, self._most_kept = backend, most_kept
        # A backend of one's own is not known on the disk.
        self._saves = backend is None
        self._origins: dict[Program, Origin] = {}
        # At each point: they have differed once, or their function replaces what it reads.
        self._compared: set[Program] = set()
        self.refusal: str | None = None

    def linearize(
        self,
        map: Map,
        point: Leaves,
        arguments: Any,
        *,
        name: str,
        shared: Shared | None = None,
        lone: bool = False,
    ) -> Linearization:
        """The linearization of ``map``, which evaluates the function on ``arguments`` with the variables ``point``.

        With ``shared`` it is one of several at this point: a program is compared with the tape at the first of them.
        With ``lone`` one product is expected, which is one program where the map has one.
        """
        if transform_level() is not None:
            tape.refuse_inside_transform()
        if self.refusal is not None:
            return tape.linearize(map, point, name=name)
        linearization: Linearization = untraced(self._by_program)(map, point, arguments, name, shared, lone)
        return linearization

    def forget(self) -> None:
        """Let go of what the function reads."""
        self._sorted = None

    @property
    def seconds(self) -> float:
        """Spent on capturing and compiling, at all points so far."""
        return sum(program.seconds for program in self.programs)

    def _by_program(
        self, map: Map, point: Leaves, arguments: Any, name: str, shared: Shared | None, lone: bool
    ) -> Linearization:
        surroundings = self._surroundings(arguments, point, shared.surroundings if shared else None)
        try:
            program, inputs = self._program(map, point, arguments, surroundings, shared)
        except CaptureError as error:
            # What the function itself raises passes through unchanged.
            return self._instead(error, tape.linearize(map, point, name=name))
        try:
            if lone and program.has_lone_product and program not in self._compared:
                return self._lone(program, inputs, map, point, arguments, name)
            is_known = shared is not None and program in shared.trusted
            linearization = self._halves(program, inputs, map, point, name, counts=not is_known)
        except FoundWrongError as error:
            self._discard(error.program)
            return self._by_program(map, point, arguments, name, shared, lone)
        if shared is not None and linearization.engine == "compiled":
            shared.trusted.add(program)
        return linearization

    def _halves(
        self, program: Program, inputs: list[Tensor], map: Map, point: Leaves, name: str, *, counts: bool = True
    ) -> Linearization:
        """By two halves; where this counts as a point of the program, it is compared with the tape if that is due."""
        if counts and self._is_due(program, "halves"):
            return self._verified(program, inputs, map, point, name)
        trusted = self._trusted(program, inputs)
        if trusted is None:
            return self._exception(tape.linearize(map, point, name=name))
        program.points["halves"] += counts
        return trusted

    def _lone(
        self, program: Program, inputs: list[Tensor], map: Map, point: Leaves, arguments: Any, name: str
    ) -> Linearization:
        linearize = functools.partial(self._later, program, inputs, map, point, arguments, name)
        if self._is_due(program, "lone"):
            return self._verified(program, inputs, map, point, name, linearize)
        program.points["lone"] += 1
        return LoneProduct(program, inputs, linearize)

    def _later(
        self, program: Program, inputs: list[Tensor], map: Map, point: Leaves, arguments: Any, name: str
    ) -> Linearization:
        """By two halves, where a point was served as a lone product before."""
        is_due = self._is_due(program, "halves")
        is_same = not is_due or program.still_takes(inputs, point, self._surroundings(arguments, point))
        if not is_same and not program.points["halves"]:
            raise StalePointError(
                f"What the function reads has changed since this {name} was made, and its gradient was not computed"
                " yet. Call at(inputs) for the operator at the present values."
            )
        try:
            return self._halves(program, inputs, map, point, name, counts=is_same)
        except FoundWrongError as error:
            self._discard(error.program)
            return self._by_program(map, point, arguments, name, None, lone=False)

    def _surroundings(self, arguments: Any, point: Leaves, beside: Surroundings | None = None) -> Surroundings:
        """Everything found now."""
        found = self.reading.now()
        if self._sorted is None or self._sorted.found is not found:
            self._sorted = Sorted(found)
        return Surroundings(self._sorted, arguments, point, beside)

    def _is_due(self, program: Program, form: Form) -> bool:
        """Whether a program is compared with the tape at its next point, counted from 1."""
        number = program.points[form] + 1
        is_power = bool(self.verify) and number & (number - 1) == 0
        return is_power or number == 1 or self.verify == "always" or program in self._compared

    def _serving(self, point: Leaves, surroundings: Surroundings) -> tuple[Program, list[Tensor]] | None:
        """A program for the point, and its inputs there."""
        for program in self.programs:
            inputs = program.inputs(point, surroundings)
            if inputs is not None:
                return program, inputs
        return None

    def _program(
        self, map: Map, point: Leaves, arguments: Any, surroundings: Surroundings, shared: Shared | None
    ) -> tuple[Program, list[Tensor]]:
        """A program for the point, and its inputs there: one that serves already, was saved, or is made now."""
        if (serving := self._serving(point, surroundings)) is not None:
            return serving
        origin = self._origin(map, point, arguments, shared)
        found = None if origin is None else origin.found(point, surroundings, _inductor)
        program, inputs = found or self._new_program(map, point, surroundings, shared, origin)
        if origin is not None and program not in self._compared:
            self._origins[program] = origin
        return program, inputs

    def _origin(self, map: Map, point: Leaves, arguments: Any, shared: Shared | None) -> Origin | None:
        """Where the program is saved; None where it is not."""
        if not self._saves or len(self.programs) == PROGRAMS:
            return None
        from hesse._linearize.program.saved import origin_of

        reads = None if shared is None else shared.reads()
        return origin_of(map, self.reading.func, reads, arguments, point, self._directions, self._most_kept)

    def _discard(self, program: Program) -> None:
        """Go on without a saved program that differs from the tape."""
        warn_caller(FOUND_WRONG)
        self._origins.pop(program).discard()
        self._saves = False
        self.programs = [other for other in self.programs if other is not program]

    def _new_program(
        self, map: Map, point: Leaves, surroundings: Surroundings, shared: Shared | None, origin: Origin | None = None
    ) -> tuple[Program, list[Tensor]]:
        if len(self.programs) == PROGRAMS:
            changed = surroundings.difference(self.programs[-1].plain)
            what = f"{changed!r} is different at each point" if changed else "its tensors are laid out anew each time"
            raise CaptureError(f"it has been captured {PROGRAMS} times already, since {what}")
        from hesse._linearize.program import leftovers
        from hesse._linearize.program.program import Program

        states, reads = generator_states(), (self.reading.func, shared and shared.reads())
        with refused(described("making its program")), leftovers.removed(reads):
            self._backend = self._backend or _inductor()
            noting = contextlib.nullcontext if origin is None else origin.ran.noted
            before = read_now(self.reading.func)
            program = Program.captured(
                map, point, surroundings, self._directions, self._backend, self._most_kept, self._follows, noting
            )
            # A replay would not do so, and the next evaluation reads what this one has left.
            if read_now(self.reading.func) != before:
                self._compared.add(program)
        # Stand-ins draw nothing, so whoever has moved a generator is the function.
        if program.draws and any(not torch.equal(generator.get_state(), state) for generator, state in states.items()):
            raise CaptureError(f"it sets the state of the random generator and draws by {', '.join(program.draws)}")
        inputs = program.inputs(point, surroundings)
        if inputs is None:
            raise CaptureError("it reads values that are different each time")
        return program, inputs

    def _trusted(self, program: Program, inputs: list[Tensor]) -> CompiledLinearization | None:
        """The program's linearization; None where a rule is missing in it, and nothing has changed."""
        states = generator_states() if program.draws else {}
        start = program.start(program.with_copies(inputs))
        if start.is_exception:
            put_back(states)
            return None
        for tensor, value in zip(program.changed_inputs(inputs), start.changed, strict=True):
            tensor.copy_(value)
        return CompiledLinearization(program, start)

    def _verified(
        self,
        program: Program,
        inputs: list[Tensor],
        map: Map,
        point: Leaves,
        name: str,
        linearize: Callable[[], Linearization] | None = None,
    ) -> Linearization:
        """Compared with the tape: two halves, or where the call that makes them later is given, a lone product."""
        # The tape's is the one evaluation that counts: it draws and changes buffers. The program repeats it.
        before = program.with_copies(inputs)
        states = generator_states() if program.draws else {}
        reference = tape.linearize(map, point, name=name)
        try:
            # Where none goes on with the tape, its graph is not kept beside what the program keeps.
            last = not (self.or_tape or program.may_be_missing_a_rule)
            expected = expected_products(reference, self._directions, point, last)
            ours = self._checked(program, before, states, reference, expected, point, linearize)
        except FoundWrongError:
            reference.close()
            raise
        except CaptureError as error:
            return self._instead(error, reference)
        if ours is None:
            return self._exception(reference)
        reference.close()
        return ours

    def _exception(self, reference: Linearization) -> Linearization:
        """The tape at a point whose values call for a rule that is missing in programs."""
        if not self.exceptions:
            warn_caller(f"The tape serves where {EXCEPTION}; programs serve everywhere else.")
        self.exceptions += 1
        return reference

    def beside(
        self, reference: Linearization, states: States, map: Map, point: Leaves, arguments: Any
    ) -> Linearization:
        """The linearization by a program where the tape has made its own, ``reference``, already.

        ``states`` are those of the generators before that. The function runs on stand-ins only.

        Raises:
            CaptureError: there is no program, or not for a point that has passed.
        """
        program, inputs = self._program(map, point, arguments, self._surroundings(arguments, point), None)
        if program.changed_inputs(inputs) or program in self._compared:
            raise CaptureError("it changes what it reads, so that its evaluation cannot be repeated")
        expected = expected_products(reference, self._directions, point)
        try:
            ours = self._checked(program, inputs, states if program.draws else {}, reference, expected, point)
        except FoundWrongError as error:
            self._discard(error.program)
            return self.beside(reference, states, map, point, arguments)
        if ours is None:
            raise CaptureError(EXCEPTION)
        return ours

    def _checked(
        self,
        program: Program,
        inputs: list[Tensor],
        states: States,
        reference: Linearization,
        expected: Expected,
        point: Leaves,
        linearize: Callable[[], Linearization] | None = None,
    ) -> Linearization | None:
        """The program's linearization, compared with the tape's; None where a rule is missing in it."""
        form: Form = "halves" if linearize is None else "lone"
        number = program.points[form] + 1
        ours: CompiledLinearization | LoneProduct
        try:
            with refused(described("running its program")), drawing_from(states):
                if linearize is None:
                    start = program.start(inputs)
                    if start.is_exception:
                        self._keep(program)
                        return None
                    ours = CompiledLinearization(program, start)
                    found = [*ours.outputs, *tensors_of(ours.aux)]
                    returned = [*reference.outputs, *tensors_of(reference.aux)]
                    compare("value or gradient", found, returned, program, number)
                else:
                    ours = LoneProduct(program, inputs, linearize, is_counted=False)
                # The tape's, which a lone product has not computed.
                ours.outputs, ours.aux = reference.outputs, reference.aux
                scaled = functools.cache(lambda: random_products(ours, self._directions, point, FACTOR))
                for i, product in enumerate(random_products(ours, self._directions, point)):
                    again = lambda i=i: scaled()[i], lambda i=i: expected.scaled[i]
                    compare("product with a random vector", product, expected.products[i], program, number, again)
        except CaptureError as error:
            if number == 1 and program in self._origins and self._origins[program].is_found:
                raise FoundWrongError(program) from error
            self._compared.add(program)
            drawn = f", and it draws by {', '.join(program.draws)}" if program.draws else ""
            raise CaptureError(f"{error}{drawn}") from error
        if isinstance(ours, LoneProduct):
            ours.is_counted = ours.is_evaluated = True
        self._keep(program)
        program.points[form] = number
        if program in self._origins:
            self._origins[program].save(program)
        return ours

    def _keep(self, program: Program) -> None:
        if program not in self.programs:
            self.programs.append(program)

    def _instead(self, error: CaptureError, reference: Linearization) -> Linearization:
        """The tape where there is no program to trust."""
        if not self.or_tape:
            reference.close()
            raise CaptureError(
                f'engine="compiled" cannot take this function: {error}. Use engine="tape", or "auto".'
            ) from error
        self.refusal = str(error)
        warn_caller(f'engine="auto" goes on with the tape: {error}.')
        return reference


def _inductor() -> Backend:
    """Loaded only where it is used."""
    from hesse._linearize.program import backends

    return backends.INDUCTOR
