"""Blocks of columns, handled by the operator's inner products alone, so that the same code runs on sharded vectors.

A block (n, k) is the transposed view of k rows. Coefficients are float64 on the CPU.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hesse._operators.operator import Operator

# Gram matrices of that many columns cost about what reading the columns does.
WIDTH = 8
# A vector whose new part is that small, in units of eps times its norm, lies in the basis: it is rounding.
DEPENDENT = 10


def pieces(V: Tensor, width: int = 1) -> list[Tensor]:
    """The columns of a block, so many at a time."""
    return [V[:, start : start + width] for start in range(0, V.shape[1], width)]


def dots(operator: Operator, U: Tensor, V: Tensor) -> Tensor:
    """Inner products of the matching columns of two blocks, (k,)."""
    pairs = zip(pieces(U, WIDTH), pieces(V, WIDTH), strict=True)
    diagonals = [operator.gram(u, v).diagonal() for u, v in pairs]
    return torch.cat(diagonals).cpu().double() if diagonals else torch.zeros(0, dtype=torch.float64, device="cpu")


def norms(operator: Operator, V: Tensor) -> Tensor:
    """‖v‖ of each column, (k,), also where its square would underflow or overflow."""
    squares = dots(operator, V, V)
    limits = torch.finfo(V.dtype)
    lengths = squares.sqrt()
    # Far enough to bring a subnormal number's square, and the largest number's, into the range.
    far = int(0.7 * math.log2(limits.max))
    for exponent, beyond in ((far, squares < limits.tiny / limits.eps), (-far, ~torch.isfinite(squares))):
        if bool(beyond.any()):
            scaled = ldexp(V, exponent)
            again = ldexp(dots(operator, scaled, scaled).sqrt(), -exponent)
            lengths = torch.where(beyond, again, lengths)
    return lengths


def ldexp(V: Tensor, exponents: Tensor | int) -> Tensor:
    """V·2^e, columns or coefficients by an exponent each or by one: exact within the range of the dtype."""
    left = torch.as_tensor(exponents, dtype=torch.int64, device="cpu")
    most = int(math.log2(torch.finfo(V.dtype).max)) - 2
    while bool(left.any()):
        step = left.clamp(-most, most)
        # NumPy's is exact; torch.ldexp takes the power in float32.
        V = V * like(torch.as_tensor(np.ldexp(1.0, step.numpy()), device="cpu"), V)
        left = left - step
    return V


def exponents(lengths: Tensor) -> Tensor:
    """For each length the e for which it lies from ½·2^e to 2^e; zero for a length of zero."""
    return torch.frexp(lengths).exponent.to(torch.int64)


def unit(operator: Operator, V: Tensor) -> tuple[Tensor, Tensor]:
    """The columns, each divided by its norm unless that is zero, and the norms, (k,)."""
    lengths = norms(operator, V)
    powers = exponents(lengths)
    factors = 1 / torch.where(lengths > 0, ldexp(lengths, -powers), 1)
    return scale(ldexp(V, -powers), factors), lengths


def gram(operator: Operator, U: Tensor, V: Tensor) -> Tensor:
    """Uᵀ·V, as coefficients."""
    return operator.gram(U, V).cpu().double()


def like(coefficients: Tensor, V: Tensor) -> Tensor:
    """Coefficients in the dtype and on the device of a block."""
    return coefficients.to(V.device, V.dtype)


def beside(U: Tensor, V: Tensor) -> Tensor:
    """The columns of U and then those of V."""
    return torch.cat([U.mT, V.mT]).mT


def select(U: Tensor, chosen: Tensor) -> Tensor:
    """The chosen columns of a block, or entries of coefficients, by indices or by a mask on the CPU."""
    return U.mT[chosen.to(U.device)].mT if U.dim() == 2 else U[chosen]


def scale(U: Tensor, factors: Tensor) -> Tensor:
    """Each column times its factor."""
    return U * like(factors, U)


def add(U: Tensor, V: Tensor, factors: Tensor) -> None:
    """Add to each column of U that of V times its factor, in place."""
    U.addcmul_(V, like(factors, U))


def shrink(U: Tensor, factors: Tensor) -> None:
    """Multiply each column by its factor, in place."""
    U.mul_(like(factors, U))


def overwrite(U: Tensor, V: Tensor | None, chosen: Tensor) -> None:
    """Give the chosen columns of U the values of V, or zeros, in place."""
    for column in chosen.nonzero().squeeze(1).tolist():
        U[:, column].zero_() if V is None else U[:, column].copy_(V[:, column])


def empty(operator: Operator) -> Tensor:
    """A block without columns."""
    return torch.empty(0, operator.length, dtype=operator.dtype, device=operator.device).mT


def units(operator: Operator, start: int, width: int) -> Tensor:
    """Columns ``start`` to ``start + width`` of the identity."""
    rows = torch.zeros(width, operator.length, dtype=operator.dtype, device=operator.device)
    place = 0
    for first, count in operator.ranges:
        low, high = max(first, start), min(first + count, start + width)
        if low < high:
            here = slice(place + low - first, place + high - first)
            rows[low - start : high - start, here].diagonal().fill_(1)
        place += count
    return rows.mT


def orthonormalize(operator: Operator, Q: Tensor, V: Tensor, scale: float = 0.0) -> tuple[Tensor, Tensor]:
    r"""Orthonormal columns Q′ that begin with Q, and coefficients R (columns of Q′, k), such that V = Q′·R.

    Classical Gram–Schmidt, again until the norm no longer drops; a column that the ones before it span is left out.
    Rounding is that of the column, or of vectors as long as ``scale`` where the column is the short rest of such ones.

    Source: Giraud, Langou and Rozložník, "The loss of orthogonality in the Gram-Schmidt orthogonalization process",
    Comput. Math. Appl. 50 (2005) 1069–1075.
    """
    capacity, kept = Q.shape[1] + V.shape[1], Q.shape[1]
    rows = torch.empty(capacity, V.shape[0], dtype=V.dtype, device=V.device)
    rows[:kept] = Q.mT
    R = torch.zeros(capacity, V.shape[1], dtype=torch.float64, device="cpu")
    eps = torch.finfo(V.dtype).eps
    for j, column in enumerate(pieces(V)):
        remainder = column
        norm = float(norms(operator, column))
        rounding = DEPENDENT * eps * max(norm, scale)
        while kept:
            basis = rows[:kept].mT
            coefficients = operator.gram(basis, remainder)
            remainder = remainder - basis @ coefficients
            R[:kept, j] += coefficients.squeeze(-1).cpu().double()
            before, norm = norm, float(norms(operator, remainder))
            if norm <= rounding or norm > 0.7 * before:
                break
        if norm > rounding:
            rows[kept] = remainder.squeeze(-1) / norm
            R[kept, j] = norm
            kept += 1
    return rows[:kept].mT, R[:kept]
