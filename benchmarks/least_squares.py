"""Ten problems of the Moré-Garbow-Hillstrom collection: residuals, written once for PyTorch and for JAX.

Source: Moré, Garbow and Hillstrom, "Testing unconstrained optimization software", ACM Trans. Math. Softw. 7 (1981)
17–41, by whose numbers they go. The function to minimize is half of the sum of squares.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KOWALIK_OSBORNE = (
    (0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246),
    (4.0000, 2.0000, 1.0000, 0.5000, 0.2500, 0.1670, 0.1250, 0.1000, 0.0833, 0.0714, 0.0625),
)


@dataclass(frozen=True)
class Problem:
    """Residuals r(x), and where to begin.

    Attributes:
        number: of the problem in the collection.
        residuals: r, called as ``residuals(xp, x)`` with the module of the array's functions.
        start: the standard starting point.
        minima: known values of ½‖r‖² at minima.
    """

    name: str
    number: int
    residuals: Callable[[Any, Any], Any]
    start: tuple[float, ...]
    minima: tuple[float, ...]


def rosenbrock(xp: Any, x: Any) -> Any:
    return xp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def helical_valley(xp: Any, x: Any) -> Any:
    # θ of the collection is the angle in turns, between −1/4 and 3/4.
    angle = xp.arctan(x[1] / x[0]) / (2 * math.pi) + xp.where(x[0] > 0, 0.0, 0.5)
    return xp.stack([10 * (x[2] - 10 * angle), 10 * (xp.sqrt(x[0] ** 2 + x[1] ** 2) - 1), x[2]])


def powell_singular(xp: Any, x: Any) -> Any:
    return xp.stack(
        [
            x[0] + 10 * x[1],
            5**0.5 * (x[2] - x[3]),
            (x[1] - 2 * x[2]) ** 2,
            10**0.5 * (x[0] - x[3]) ** 2,
        ]
    )


def wood(xp: Any, x: Any) -> Any:
    return xp.stack(
        [
            10 * (x[1] - x[0] ** 2),
            1 - x[0],
            90**0.5 * (x[3] - x[2] ** 2),
            1 - x[2],
            10**0.5 * (x[1] + x[3] - 2),
            (x[1] - x[3]) / 10**0.5,
        ]
    )


def kowalik_osborne(xp: Any, x: Any) -> Any:
    return xp.stack(
        [y - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3]) for y, u in zip(*KOWALIK_OSBORNE, strict=True)]
    )


def brown_dennis(xp: Any, x: Any) -> Any:
    times = [i / 5 for i in range(1, 21)]
    return xp.stack(
        [(x[0] + t * x[1] - math.exp(t)) ** 2 + (x[2] + x[3] * math.sin(t) - math.cos(t)) ** 2 for t in times]
    )


def biggs_exp6(xp: Any, x: Any) -> Any:
    times = [i / 10 for i in range(1, 14)]
    return xp.stack(
        [
            x[2] * xp.exp(-t * x[0])
            - x[3] * xp.exp(-t * x[1])
            + x[5] * xp.exp(-t * x[4])
            - (math.exp(-t) - 5 * math.exp(-10 * t) + 3 * math.exp(-4 * t))
            for t in times
        ]
    )


def watson(xp: Any, x: Any) -> Any:
    n = len(x)
    rows = []
    for i in range(1, 30):
        t = i / 29
        slope = sum((j * t ** (j - 1)) * x[j] for j in range(1, n))
        value = sum(t**j * x[j] for j in range(n))
        rows.append(slope - value**2 - 1)
    return xp.stack([*rows, x[0], x[1] - x[0] ** 2 - 1])


def extended_rosenbrock(xp: Any, x: Any) -> Any:
    return xp.concatenate([10 * (x[1::2] - x[::2] ** 2), 1 - x[::2]])


def broyden_tridiagonal(xp: Any, x: Any) -> Any:
    zero = xp.zeros_like(x[:1])
    before, after = xp.concatenate([zero, x[:-1]]), xp.concatenate([x[1:], zero])
    return (3 - 2 * x) * x - before - 2 * after + 1


PROBLEMS = [
    Problem("Rosenbrock", 1, rosenbrock, (-1.2, 1.0), (0.0,)),
    Problem("Helical valley", 7, helical_valley, (-1.0, 0.0, 0.0), (0.0,)),
    Problem("Powell singular", 13, powell_singular, (3.0, -1.0, 0.0, 1.0), (0.0,)),
    Problem("Wood", 14, wood, (-3.0, -1.0, -3.0, -1.0), (0.0,)),
    Problem("Kowalik and Osborne", 15, kowalik_osborne, (0.25, 0.39, 0.415, 0.39), (1.53753e-4, 5.1367e-4)),
    Problem("Brown and Dennis", 16, brown_dennis, (25.0, 5.0, -5.0, -1.0), (42911.1,)),
    Problem("Biggs EXP6", 18, biggs_exp6, (1.0, 2.0, 1.0, 1.0, 1.0, 1.0), (0.0, 2.82782e-3)),
    Problem("Watson, n = 9", 20, watson, (0.0,) * 9, (6.99880e-7,)),
    Problem("Extended Rosenbrock, n = 100", 21, extended_rosenbrock, (-1.2, 1.0) * 50, (0.0,)),
    Problem("Broyden tridiagonal, n = 100", 30, broyden_tridiagonal, (-1.0,) * 100, (0.0,)),
]
