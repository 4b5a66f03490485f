"""The compiled engine: a captured program, replayed at every point and compared with the tape before it is trusted."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hesse._autograd.agreement import disagreement
from hesse._autograd.evaluation import untraced
from hesse._autograd.gradients import memory_of
from hesse._base import trees
from hesse._base.errors import CaptureError, ClosedError, warn_caller
from hesse._base.fixed_draws import random_like
from hesse._linearize import tape
from hesse._linearize.choice import EngineName
from hesse._linearize.program.explained import described, refused
from hesse._linearize.program.surroundings import Surroundings
from hesse._linearize.protocol import Direction, Leaves, Linearization, Map, Selection

if TYPE_CHECKING:
    from hesse._linearize.program.backends import Backend
    from hesse._linearize.program.program import Program, Start

States = dict[torch.Generator, Tensor]
"""Of random generators, at some time."""

# A function that needs more programs than this changes something at each point.
PROGRAMS = 8


class Shared:
    """What linearizations at one point have in common, when there is one for each batch of data.

    Args:
        reads: by name, all that they read beside the arguments of each.
        engine: what makes them all, also after another engine was decided for at another point.

    Attributes:
        compared: the programs that were compared with the tape at this point, and are trusted there from then on.
    """

    def __init__(self, reads: Callable[[], dict[str, Any]], engine: EngineName) -> None:
        self.reads, self.engine = reads, engine
        self.compared: set[Program] = set()

    @functools.cached_property
    def surroundings(self) -> Surroundings:
        """What those read, looked through once."""
        return Surroundings(self.reads(), (), ())


class Compiled:
    """Makes linearizations by programs, and keeps the programs of one function.

    Args:
        func: the user's function, or whatever else reaches all that a map reads beside its arguments.
        directions: the products that are wanted.
        verify: compare with the tape at each new point, not only where a program is new.
        or_tape: go on with the tape, and one warning, where no program can be had.
        backend: what makes graphs fast; Inductor when left out.
        most_kept: bytes that a point may keep between products, as far as computing again helps.
    """

    def __init__(
        self,
        func: Any,
        directions: Sequence[Direction],
        *,
        verify: bool = True,
        or_tape: bool = False,
        backend: Backend | None = None,
        most_kept: int | None = None,
    ) -> None:
        self.func = func
        self.verify = verify
        self.programs: list[Program] = []
        self._directions = directions
        self.or_tape = or_tape
        self._backend, self._most_kept = backend, most_kept
        self.refusal: str | None = None
        self._follows = False

    def linearize(
        self, map: Map, point: Leaves, arguments: Any, *, name: str, shared: Shared | None = None
    ) -> Linearization:
        """The linearization of ``map``, which evaluates the function on ``arguments`` with the variables ``point``.

        With ``shared`` it is one of several at this point: a program is compared with the tape at the first of them.
        """
        tape.refuse_inside_transform()
        if self.refusal is not None:
            return tape.linearize(map, point, name=name)
        linearization: Linearization = untraced(self._linearize)(map, point, arguments, name, shared)
        return linearization

    @property
    def seconds(self) -> float:
        """Spent on capturing and compiling, at all points so far."""
        return sum(program.seconds for program in self.programs)

    def _linearize(self, map: Map, point: Leaves, arguments: Any, name: str, shared: Shared | None) -> Linearization:
        surroundings = Surroundings(self.func, arguments, point, shared.surroundings if shared else None)
        try:
            program, inputs = self._serving(point, surroundings) or self._new_program(map, point, surroundings, shared)
        except CaptureError as error:
            # What the function itself raises passes through unchanged.
            return self._instead(error, tape.linearize(map, point, name=name))
        compares = self.verify and (shared is None or program not in shared.compared)
        if program in self.programs and not compares:
            return self._trusted(program, inputs)
        linearization = self._verified(program, inputs, map, point, name)
        if shared is not None:
            shared.compared.add(program)
        return linearization

    def _serving(self, point: Leaves, surroundings: Surroundings) -> tuple[Program, list[Tensor]] | None:
        """A program for the point, and its inputs there."""
        found = ((program, program.inputs(point, surroundings)) for program in self.programs)
        return next(((program, inputs) for program, inputs in found if inputs is not None), None)

    def _new_program(
        self, map: Map, point: Leaves, surroundings: Surroundings, shared: Shared | None
    ) -> tuple[Program, list[Tensor]]:
        if len(self.programs) == PROGRAMS:
            changed = surroundings.difference(self.programs[-1].plain)
            what = f"{changed!r} is different at each point" if changed else "its tensors are laid out anew each time"
            raise CaptureError(f"it has been captured {PROGRAMS} times already, since {what}")
        from hesse._linearize.program import leftovers
        from hesse._linearize.program.program import Program

        states = generator_states([*point, *surroundings.tensors.values()])
        reads = (self.func, shared and shared.reads())
        with refused(described("making its program")), leftovers.removed(reads):
            self._backend = self._backend or _inductor()
            program = Program(
                map, point, surroundings, self._directions, self._backend, self._most_kept, follows=self._follows
            )
        # Stand-ins draw nothing, so whoever has moved a generator is the function.
        if program.draws and any(not torch.equal(generator.get_state(), state) for generator, state in states.items()):
            raise CaptureError(f"it sets the state of the random generator and draws by {', '.join(program.draws)}")
        inputs = program.inputs(point, surroundings)
        if inputs is None:
            raise CaptureError("it reads values that are different each time")
        return program, inputs

    def _trusted(self, program: Program, inputs: list[Tensor]) -> CompiledLinearization:
        start = program.start(program.with_copies(inputs))
        for tensor, value in zip(program.changed_inputs(inputs), start.changed, strict=True):
            tensor.copy_(value)
        return CompiledLinearization(program, start)

    def _verified(self, program: Program, inputs: list[Tensor], map: Map, point: Leaves, name: str) -> Linearization:
        # The tape's is the one evaluation that counts: it draws and changes buffers. The program repeats it.
        before = program.with_copies(inputs)
        states = generator_states(inputs) if program.draws else {}
        reference = tape.linearize(map, point, name=name)
        try:
            # Where none goes on with the tape, its graph is not kept beside what the program keeps.
            expected = self._expected(reference, point, last=not self.or_tape)
            ours = self._checked(program, before, states, reference, expected, point)
        except CaptureError as error:
            return self._instead(error, reference)
        reference.close()
        return ours

    def beside(
        self, reference: Linearization, states: States, map: Map, point: Leaves, arguments: Any
    ) -> CompiledLinearization:
        """The linearization by a program where the tape has made its own, ``reference``, already.

        ``states`` are those of the generators before that. The function runs on stand-ins only.

        Raises:
            CaptureError: there is no program, or not for a point that has passed.
        """
        surroundings = Surroundings(self.func, arguments, point)
        program, inputs = self._serving(point, surroundings) or self._new_program(map, point, surroundings, None)
        if program.changed_inputs(inputs):
            raise CaptureError("it changes tensors in place, so that its evaluation cannot be repeated")
        expected = self._expected(reference, point)
        return self._checked(program, inputs, states if program.draws else {}, reference, expected, point)

    def _checked(
        self,
        program: Program,
        inputs: list[Tensor],
        states: States,
        reference: Linearization,
        expected: Sequence[Leaves],
        point: Leaves,
    ) -> CompiledLinearization:
        """The program's linearization, compared with the tape's."""
        try:
            with refused(described("running its program")), _drawing_from(states):
                ours = CompiledLinearization(program, program.start(inputs))
                _compare(
                    "value or gradient",
                    [*ours.outputs, *_tensors(ours.aux)],
                    [*reference.outputs, *_tensors(reference.aux)],
                    program.precision,
                )
                for product, right in zip(self._products(ours, point), expected, strict=True):
                    _compare("product with a random vector", product, right, program.precision)
        except CaptureError as error:
            drawn = f", and it draws by {', '.join(program.draws)}" if program.draws else ""
            raise CaptureError(f"{error}{drawn}") from error
        ours.outputs, ours.aux = reference.outputs, reference.aux
        if program not in self.programs:
            self.programs.append(program)
        return ours

    def _products(self, linearization: Linearization, point: Leaves, last: bool = False) -> list[Leaves]:
        """Products with random vectors, one for each direction."""
        everything = Selection(tuple(range(len(linearization.outputs))), tuple(range(len(point))))
        products: list[Leaves] = []
        # Those by rmatvec come after those by matvec, since the last of them frees all.
        for direction in sorted(self._directions):
            vectors = [random_like(leaf) for leaf in (linearization.outputs if direction == "rmatvec" else point)]
            products.append(getattr(linearization, direction)(vectors, everything, last=last))
        return products

    def _expected(self, reference: Linearization, point: Leaves, last: bool = False) -> list[Leaves]:
        """The tape's products, which a program's are compared with."""
        with refused(described("a product by the tape")):
            return self._products(reference, point, last)

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


class CompiledLinearization(Linearization):
    """A linearization that replays a program."""

    create_graph = False
    engine: EngineName = "compiled"
    batch_size: int | None = 16

    def __init__(self, program: Program, start: Start) -> None:
        self.outputs, self.aux = start.outputs, start.aux
        self._program = program
        self._kept: list[Tensor] | None = start.kept

    @property
    def batch_price(self) -> float:
        """What compiling the program has taken: one for many vectors takes as long, or a few times as long."""
        return 0.0 if self._program.has_batched else self._program.seconds

    def rmatvec(
        self, cotangents: Leaves, selection: Selection, *, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """cotangentsᵀ · J, by the replay half."""
        products = self._multiply("rmatvec", cotangents, selection.outputs, selection.inputs, batched)
        if last:
            self.close()
        return products

    def matvec(
        self, tangents: Leaves, selection: Selection, *, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """J · tangents, by the replay half of the double-backward trick."""
        return self._multiply("matvec", tangents, selection.inputs, selection.outputs, batched)

    def _multiply(
        self, direction: Direction, vectors: Leaves, given: Sequence[int], wanted: Sequence[int], batched: bool
    ) -> list[Tensor]:
        tape.refuse_replay_inside_transform()
        if self._kept is None:
            raise ClosedError(tape.CLOSED)
        by_position = dict(zip(given, vectors, strict=True))
        count = len(vectors[0]) if batched else None
        products = untraced(self._program.replay)(direction, self._kept, by_position, count)
        return [products[i] for i in wanted]

    def shared_with(self, tensors: Leaves) -> list[Tensor]:
        """Those of the tensors whose memory is kept for replays: products are right while these do not change."""
        kept = {memory_of(tensor) for tensor in self._kept or ()}
        return [tensor for tensor in tensors if memory_of(tensor) in kept]

    def kept_bytes(self, beside: Leaves = ()) -> int:
        """Bytes of all distinct memory that is kept for replays."""
        others = {memory_of(tensor) for tensor in beside}
        memories = {memory_of(tensor): tensor.untyped_storage().nbytes() for tensor in self._kept or ()}
        return sum(size for memory, size in memories.items() if memory not in others)

    def close(self) -> None:
        """Free what is kept; the program stays for other points."""
        self._kept = None


def _inductor() -> Backend:
    """Loaded only where it is used."""
    from hesse._linearize.program import backends

    return backends.INDUCTOR


def _compare(what: str, ours: Leaves, expected: Leaves, precision: torch.dtype) -> None:
    times = disagreement(ours, expected, precision=precision)
    if not times <= 1:
        raise CaptureError(f"the {what} differs from the tape's by {times:.1e} times what rounding allows")


def _tensors(tree: Any) -> list[Tensor]:
    """The tensors of an auxiliary output that can be compared as numbers."""
    return [leaf for leaf in trees.flatten(tree)[0] if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def generator_states(tensors: Sequence[Tensor]) -> States:
    """The states of the generators that a function of these tensors may draw from."""
    generators = [torch.default_generator]
    generators += [torch.cuda.default_generators[index] for index in {t.device.index for t in tensors if t.is_cuda}]
    return {generator: generator.get_state() for generator in generators}


@contextlib.contextmanager
def _drawing_from(states: States) -> Iterator[None]:
    """Draw again from these states, and leave the generators as they are found."""
    found = {generator: generator.get_state() for generator in states}
    for generator, state in states.items():
        generator.set_state(state)
    try:
        yield
    finally:
        for generator, state in found.items():
            generator.set_state(state)
