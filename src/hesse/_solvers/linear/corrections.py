"""Solve, look at the true residuals, and correct: what turns a Krylov method into an answer that can be trusted."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hesse._base import pages
from hesse._operators.operator import Operator
from hesse._solvers import columns as blocks
from hesse._solvers import noise
from hesse._solvers.checkpoint import State
from hesse._solvers.linear.answers import Answers
from hesse._solvers.linear.krylov import Krylov, Preconditioner
from hesse._solvers.linear.minres import LEAST_SQUARES, ROUNDING
from hesse._solvers.linear.sides import Sides
from hesse._solvers.run import Products

# A correction is worth another one while it makes the true residual at least that much smaller.
PROGRESS = 0.5
# After so many steps, and twice as many, a run is asked whether it makes progress.
STALL = 64
# Endings that noise may have led to.
DOUBTFUL = ("", "precision", "max_products", "singular")
# What a run says of why no residual is smaller; another run from there must say so too.
CLAIMS = ("least_squares", "precision")
# Of a least-squares solution ‖A·r‖ is below eps to this power, relative to ‖A‖·‖r‖; that is more than its method needs.
NULL = 1 / 3
# And rᵀA·r is below so many eps·‖A‖·‖r‖²: of a null vector with an error of √eps it is that error's square.
FLAT = 128
# Eigenvalues below eps to this power, relative to ‖A‖, are zero where a correction along them hardly helps.
RANK = 3 / 4


def answer(
    products: Products,
    method: type[Krylov],
    B: Tensor,
    x0: Tensor | None,
    preconditioner: Operator | None,
    *,
    tol: float,
    atol: float,
    room: int,
    saved: State | None = None,
) -> Answers:
    """Solutions of A·X = B with residuals of at most max(tol·‖b‖, atol), or as good as they can be.

    Right-hand sides are brought near one by powers of two, as the products are, and the answers back.

    Args:
        products: the question's products.
        method: the Krylov method.
        B: right-hand sides, (n, k).
        x0: where to begin, (n, k), or None.
        preconditioner: M, or None.
        tol: residual norm relative to that of b.
        atol: residual norm.
        room: how many vectors may be held; see ``vectors``.
        saved: the state of the run that a checkpoint interrupted, if any.
    """
    lengths = blocks.norms(products.operator, B)
    units = blocks.exponents(lengths)
    sides = Sides(products, B, units, blocks.ldexp((tol * lengths).clamp(min=atol), -units))
    inverse = None if preconditioner is None else Preconditioner(products.operator, preconditioner)
    least, most = _each(method, preconditioner)
    # Beside b and x; columns that run together are copied where one of them stops.
    room -= 2 * B.shape[1]
    width = max(1, (room - noise.VECTORS) // (most + 1))
    each = most if width > 1 else min(max(room, least), most)
    if saved is None:
        steps = torch.zeros(B.shape[1], dtype=torch.int64, device="cpu")
        bare = [inverse is None] * B.shape[1]
        endings, claims = [""] * B.shape[1], [""] * B.shape[1]
        X = pages.zeros(B.shape[1], len(B), B.dtype, B.device).mT
        answers = Answers(X, blocks.ldexp(lengths, -units), endings, steps, bare, claims, [0.0, 0.0])
    else:
        answers = Answers.of(saved)
    corrections = _Corrections(
        sides,
        method,
        answers,
        inverse,
        lift=x0 is None and inverse is None,
        width=width,
        room=each,
        looks=room >= width * each + noise.VECTORS,
        is_noisy=noise.is_likely(products),
    )
    if saved is None:
        corrections.begin(x0)
    corrections.carry_on(saved)
    answers.X = blocks.ldexp(answers.X, units - products.exponent)
    answers.norms = blocks.ldexp(answers.norms, units)
    return answers


def vectors(method: type[Krylov], columns: int, preconditioner: Operator | None) -> tuple[int, int]:
    """How many vectors an answer holds at least, one column at a time, and at most; b, x and the best x among them."""
    least, most = _each(method, preconditioner)
    return 2 * columns + least, columns * (3 + most) + noise.VECTORS


def _each(method: type[Krylov], preconditioner: Operator | None) -> tuple[int, int]:
    """Of one column that runs; a preconditioned method needs M·r beside r."""
    return (method.LEAST, method.MOST) if preconditioner is None else (method.MOST + 1, method.MOST + 1)


@dataclasses.dataclass
class _Corrections:
    """Answers that are corrected until each column has ended, and every residual is a true one.

    A method's own residual drifts from the true one by rounding. So the true one is made at its end, by one product for
    each column, and if it is too large the method starts again from there; a correction that hardly helps is the last,
    and one that does harm is not taken. What minimizes a preconditioned residual goes on without the preconditioner.

    Attributes:
        sides: what is to be solved.
        method: the Krylov method.
        answers: changed in place.
        inverse: M, or None.
        lift: whether a least-squares solution is to be made the one of minimum length.
        width: how many columns run together.
        room: how many vectors each of them may hold.
        is_noisy: whether the operator is known to compute in less than the dtype of its vectors.
        looks: whether there is room to look for noise beside a run.
        held: residuals of answers that have not ended, (n, 1), where they are known; no run holds them beside its own.
    """

    sides: Sides
    method: type[Krylov]
    answers: Answers
    inverse: Preconditioner | None
    lift: bool
    width: int
    room: int
    looks: bool
    is_noisy: bool
    held: dict[int, Tensor] = dataclasses.field(default_factory=dict)

    def begin(self, x0: Tensor | None) -> None:
        """A start other than zero costs a product for each column that is not zero."""
        if x0 is None:
            return
        # Zero solves what has zero for its right-hand side, wherever the caller would begin.
        open_columns = self.answers.norms.nonzero().squeeze(1)
        for index in torch.split(open_columns, self.width):
            R = self._start(index, x0)
            if len(open_columns) <= self.width:
                self._hold(index, R)

    def _start(self, index: Tensor, x0: Tensor) -> Tensor:
        products, shifts, place = self.sides.products, self.sides.units[index], index.to(x0.device)
        starts = blocks.select(x0, index)
        lengths = blocks.norms(products.operator, starts)
        sizes = blocks.exponents(lengths)
        images = products.multiply(blocks.ldexp(starts, -sizes))
        if bool(lengths.any()):
            products.keep_units()
        self.answers.see(blocks.norms(products.operator, images), blocks.ldexp(lengths, -sizes))
        self.answers.X.mT[place] = blocks.ldexp(starts, products.exponent - shifts).mT
        del starts
        R = self.sides.residuals(index, None).sub_(blocks.ldexp(images, products.exponent + sizes - shifts))
        self.answers.norms[index] = blocks.norms(products.operator, R)
        return R

    def carry_on(self, saved: State | None) -> None:
        """Until all columns have ended; from the state of a run that a checkpoint interrupted, if any."""
        answers, products = self.answers, self.sides.products
        for column, norm in enumerate(answers.norms):
            if norm <= self.sides.targets[column] and not answers.endings[column]:
                answers.endings[column] = "converged"
        if saved is not None and self.inverse is not None:
            self.inverse.exponent = saved["inverse.exponent"]
        while open_columns := [column for column, ending in enumerate(answers.endings) if not ending]:
            bare = all(answers.bare[column] for column in open_columns)
            open_columns = [column for column in open_columns if answers.bare[column] == bare][: self.width]
            index = torch.tensor(open_columns, device="cpu")
            if saved is None and products.left < self._price(open_columns) + 2 * len(open_columns):
                endings, ran = [""] * len(open_columns), False
                scales = answers.norms[index]
            else:
                endings, ran, scales = self._run(index, bare, saved)
            saved = None
            self._end(open_columns, endings, bare, ran, scales)
            self.held = {column: R for column, R in self.held.items() if not answers.endings[column]}

    def _run(self, index: Tensor, bare: bool, saved: State | None) -> tuple[list[str], bool, Tensor]:
        """Correct some columns once: how the run ended, whether it took a step, and the residuals' norms before."""
        answers, products, sides = self.answers, self.sides.products, self.sides
        eps, matrix, scales = torch.finfo(answers.X.dtype).eps, None if bare else self.inverse, answers.norms[index]
        # The state of a run has its own residuals.
        starts = self._residuals(index) if saved is None else sides.residuals(index, None)
        starts, _ = blocks.unit(products.operator, starts)
        if saved is None and self.is_noisy:
            self._look_for_noise(starts[:, :1])
        answers.mark = 1.0 if saved is None else answers.mark
        # No run makes a residual smaller than rounding of the first one.
        targets = (sides.targets[index] / scales).clamp(min=eps)
        # Measured by A's norm, residuals along small eigenvalues look as those of the null space do.
        doubted = bare and any(answers.claims[column] for column in index.tolist())
        scale = answers.scales[bare] * (eps if doubted else 1)
        with pages.apart():
            run = self.method(products.operator, starts, targets, matrix, scale, self.room)
        run.confirms = doubted
        del starts
        if saved is not None:
            run.load(saved)
        self._iterate(run, len(index))
        answers.direction = answers.direction if answers.direction is not None else run.direction
        answers.scales[bare] = max(answers.scales[bare], run.scale)
        assert run.solution is not None
        X, endings = run.solution, run.endings
        earlier, taken = answers.iterations[index], run.iterations
        del run
        answers.iterations[index] += taken
        ran = int(taken.max()) > 0
        if ran:
            kept = torch.tensor([ending in self.method.KEEPS for ending in endings], device="cpu") & (earlier == 0)
            helped = self._take(index, X, scales, kept, bare).tolist()
        else:
            helped = [True] * len(endings)
        # Where no correction helps, the residual may be of the null space itself: a product tells.
        asked = {"least_squares"} if self.method.KEEPS else {"least_squares", "solved"}
        pairs = zip(endings, helped, strict=True)
        claimed = torch.tensor(
            [ending == "least_squares" or (ending in asked and not helps) for ending, helps in pairs], device="cpu"
        )
        price = int(claimed.sum()) + self._price(index[claimed].tolist())
        places = claimed.nonzero().squeeze(1).tolist()
        if bare and places and price > products.left:
            endings = ["" if place in places else ending for place, ending in enumerate(endings)]
        elif bare and places:
            for place, is_one in zip(places, self._shorten(index[claimed]).tolist(), strict=True):
                endings[place] = "least_squares" if is_one else "precision"
        return endings, ran, scales

    def _take(self, index: Tensor, changes: Tensor, scales: Tensor, kept: Tensor, bare: bool) -> Tensor:
        """Add changes, in units of the residuals, to answers that they make better: which; ``kept`` ones by energy."""
        answers, sides, operator = self.answers, self.sides, self.sides.products.operator
        X = changes
        blocks.shrink(X, scales)
        eps, sizes = torch.finfo(X.dtype).eps, answers.scales[True] * blocks.norms(operator, X)
        negligible = eps**RANK * sizes
        X.add_(blocks.select(answers.X, index))
        # What the solution loses where it leaves the range of its dtype belongs to its residual.
        powers = sides.units[index] - sides.products.exponent
        X = blocks.ldexp(blocks.ldexp(X, powers), -powers)
        # Beyond that range there is no correction.
        for place in (~torch.isfinite(blocks.norms(operator, X))).nonzero().squeeze(1).tolist():
            X[:, place] = answers.X[:, int(index[place])]
        R = sides.residuals(index, X)
        norms = blocks.norms(operator, R)
        if not answers.scales[True]:
            # A preconditioned run has not seen A's norm; a correction that starts at its end needs it.
            answers.see(blocks.norms(operator, sides.residuals(index, None).sub_(R)), blocks.norms(operator, X))
        chosen = norms <= answers.norms[index]
        # A correction that is of the null space lengthens a solution, and does no more.
        doubted = torch.tensor([bool(answers.claims[column]) for column in index.tolist()], device="cpu")
        null = chosen & ((norms > PROGRESS * scales) | doubted) & (scales - norms <= negligible)
        if bare and bool(null.any()) and self._price(index[null].tolist()) > sides.products.left:
            chosen &= ~null
        elif bare and bool(null.any()):
            images = self._residuals(index[null]).sub_(blocks.select(R, null))
            chosen[null] = blocks.norms(operator, images) > negligible[null]
            # A small gain that is rounding of the correction's own product is none, however large that product.
            chosen &= ~null | (scales - norms > ROUNDING * eps * sizes)
        doubtful = kept & ~chosen
        if bool(doubtful.any()) and self._price(index[doubtful].tolist()) <= sides.products.left:
            # The energy ½·xᵀAx − bᵀx changes by −½·cᵀ(r + r′) where the correction c takes r to r′ = r − A·c. Along the
            # null space it falls for ever.
            places = index[doubtful]
            steps = blocks.select(X, doubtful).sub_(blocks.select(answers.X, places))
            before = blocks.dots(operator, steps, self._residuals(places))
            after = blocks.dots(operator, steps, blocks.select(R, doubtful))
            flat = before - after <= negligible[doubtful] * blocks.norms(operator, steps)
            chosen[doubtful] = (before + after > 0) & ~flat
        answers.replace(index, X, norms, chosen)
        self._hold(index[chosen], blocks.select(R, chosen))
        return chosen

    def _end(self, open_columns: list[int], endings: list[str], bare: bool, ran: bool, scales: Tensor) -> None:
        answers, products, targets = self.answers, self.sides.products, self.sides.targets
        for place, column in enumerate(open_columns):
            ending = endings[place]
            answers.bare[column] |= ending == "least_squares"
            claim, helped = answers.claims[column], bool(answers.norms[column] <= PROGRESS * scales[place])
            answers.claims[column] = ending if bare and ending in CLAIMS and (helped or not claim) else ""
            if answers.norms[column] <= targets[column]:
                answers.endings[column] = "converged"
            elif answers.claims[column] and products.left >= 3:
                continue
            elif claim and ending in ("void", "solved") and not helped:
                answers.endings[column] = claim
            elif ending == "void" or (ending == "least_squares" and not bare):
                if products.left < 3:
                    answers.endings[column] = "stopped" if products.stopped else "max_products"
            elif ending not in ("", "solved"):
                answers.endings[column] = ending
            elif ending == "" or not ran or products.left < 3:
                answers.endings[column] = "stopped" if products.stopped else "max_products"
            elif not helped:
                answers.endings[column] = "precision"
            if answers.endings[column] in DOUBTFUL and self._is_moved(column):
                x = answers.X[:, column : column + 1]
                if answers.endings[column] == "precision":
                    self._look_for_noise(x)
                if answers.norms[column] <= self._floor(x)[0]:
                    answers.endings[column] = "noise"

    def _look_for_noise(self, u: Tensor) -> None:
        """Once, with a vector of the question."""
        products = self.sides.products
        if self.answers.noise is None and products.left > noise.PRODUCTS + 2:
            self.answers.noise = list(dataclasses.astuple(noise.measure(products, u)))

    def _floor(self, X: Tensor) -> Tensor:
        """The residual norms, (k,), below which those of X are noise."""
        size = self.answers.noise[0] if self.answers.noise else 0.0
        return noise.FACTOR * size * blocks.norms(self.sides.products.operator, X)

    def _stop_at_noise(self, run: Krylov) -> None:
        """End the columns of a run whose residuals are noise; whether they are is asked where they have not halved."""
        answers, steps = self.answers, int(run.iterations.max())
        if answers.noise is None and steps >= STALL and steps & (steps - 1) == 0 and run.width:
            largest = float(run.norms.max())
            if self.looks and largest > PROGRESS * answers.mark:
                self._look_for_noise(run.vectors[:, :1])
            answers.mark = largest
        if answers.noise and answers.noise[0] and run.width:
            # The last run's residual is this one's right-hand side.
            run.stop([("solved", run.norms <= 0.5 * self._floor(run.x))])

    def _iterate(self, run: Krylov, columns: int) -> None:
        products, inverse = self.sides.products, self.inverse

        def state() -> State:
            return {**self.answers.state(), **run.state(), "inverse.exponent": inverse and inverse.exponent}

        pages.trim()
        while run.width and products.left >= run.width + columns:
            run.step(products.multiply(run.vectors))
            self._stop_at_noise(run)
            largest = float(run.norms.max()) if run.width else 0.0
            products.report(
                f"{columns - run.width} of {columns} done, residual of the others up to {largest:.2g} of theirs"
            )
            products.keep(state)
        run.close()

    def _shorten(self, index: Tensor) -> Tensor:
        """Whether columns are least-squares solutions, by a true product with each residual; the shortest ones, then.

        The iterates hold of the null space only the right-hand side's part, which is the residual.
        """
        answers, products = self.answers, self.sides.products
        operator, eps = products.operator, torch.finfo(answers.X.dtype).eps
        R = self._residuals(index)
        directions, lengths = blocks.unit(operator, R)
        images = products.multiply(directions)
        found: Tensor = blocks.norms(operator, images) <= eps**NULL * answers.scales[True]
        # Residuals along small eigenvalues, which are not zero, are those of a system that has a solution.
        found &= blocks.dots(operator, directions, images).abs() <= FLAT * eps * answers.scales[True]
        # What is left of a long solution may be rounding of its product.
        sizes = blocks.norms(operator, blocks.select(answers.X, index))
        found &= lengths > ROUNDING * eps * answers.scales[True] * sizes
        if self.lift:
            X = blocks.select(answers.X, index)
            along = blocks.dots(operator, directions, X)
            blocks.add(X, directions, -along)
            blocks.add(R, images, along)
            norms = blocks.norms(operator, R)
            # How exactly the residual of a least-squares solution is known counts for less than the shortest solution.
            answers.replace(index, X, norms, found & (norms <= (1 + eps**LEAST_SQUARES) * lengths))
        return found

    def _residuals(self, index: Tensor) -> Tensor:
        """Those of answers, in memory of their own; products make what is not held."""
        columns = [self._residual(column) for column in index.tolist()]
        return columns[0] if len(columns) == 1 else torch.cat([column.mT for column in columns]).mT

    def _residual(self, column: int) -> Tensor:
        if column in self.held:
            return self.held.pop(column)
        x = self.answers.X[:, column : column + 1] if self._price([column]) else None
        return self.sides.residuals(torch.tensor([column], device="cpu"), x)

    def _price(self, columns: list[int]) -> int:
        """How many products their residuals cost."""
        return sum(column not in self.held and self._is_moved(column) for column in columns)

    def _is_moved(self, column: int) -> bool:
        """Whether its answer is other than zero."""
        return bool(blocks.norms(self.sides.products.operator, self.answers.X[:, column : column + 1]) > 0)

    def _hold(self, index: Tensor, R: Tensor) -> None:
        self.held.update(zip(index.tolist(), blocks.pieces(R), strict=True))
