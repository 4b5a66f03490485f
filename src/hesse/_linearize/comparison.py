"""Compare what a program gives with what the tape gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from hesse._autograd.agreement import FACTOR, Again, disagreement
from hesse._base import trees
from hesse._base.errors import CaptureError
from hesse._base.fixed_draws import random_like
from hesse._linearize.program.explained import described, refused
from hesse._linearize.protocol import Direction, Leaves, Linearization, Selection

if TYPE_CHECKING:
    from hesse._linearize.program.program import Program


FOUND_WRONG = (
    "A saved program differs from the tape, so the function depends on something that hesse does not find. The function"
    " is captured again; set HESSE_CACHE_DIR to an empty value where its programs should not be saved."
)


class FoundWrongError(CaptureError):
    """A program that was found on the disk differs from the tape where they are first compared."""

    def __init__(self, program: Program) -> None:
        super().__init__("a saved program differs from the tape")
        self.program = program


class Expected(NamedTuple):
    """The tape's products with random vectors, and with the same vectors times ``FACTOR``."""

    products: list[Leaves]
    scaled: list[Leaves]


def expected_products(
    reference: Linearization, directions: Sequence[Direction], point: Leaves, last: bool = False
) -> Expected:
    """The tape's products, which a program's are compared with."""
    with refused(described("a product by the tape")):
        products = random_products(reference, directions, point)
        return Expected(products, random_products(reference, directions, point, FACTOR, last))


def random_products(
    linearization: Linearization,
    directions: Sequence[Direction],
    point: Leaves,
    factor: float = 1.0,
    last: bool = False,
) -> list[Leaves]:
    """Products with random vectors times a factor, one for each direction."""
    everything = Selection(tuple(range(len(linearization.outputs))), tuple(range(len(point))))
    products: list[Leaves] = []
    # Those by rmatvec come after those by matvec, since the last of them frees all.
    for direction in sorted(directions):
        vectors = [factor * random_like(leaf) for leaf in (linearization.outputs if direction == "rmatvec" else point)]
        products.append(getattr(linearization, direction)(vectors, everything, last=last))
    return products


def compare(
    what: str, ours: Leaves, expected: Leaves, program: Program, number: int, again: Sequence[Again] = ()
) -> None:
    """Raise where results differ by more than rounding allows, at the point of that number."""
    times = disagreement(ours, expected, precision=program.precision, again=again)
    if not times <= 1:
        raise CaptureError(
            f"the {what} differs from the tape's by {times:.1e} times what rounding allows, at point {number} of the"
            " program"
        )


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors of an auxiliary output that can be compared as numbers."""
    return [leaf for leaf in trees.leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
