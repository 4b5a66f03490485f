"""Random numbers made by counting: number i of a column depends on the seed, the column and i alone.

So a part of a vector holds the numbers of the whole one, on any rank and any device. All arithmetic of Philox4x32-10
is that of int64 tensors, and its bits are the same on every device. Philox has no weak keys: seeds need no mixing.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011; for the normal numbers
Box and Muller, "A note on the generation of random normal deviates", Ann. Math. Stat. 29 (1958) 610–611.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SCHEME = "philox4x32-10: bits, Box-Muller by 512"
"""The name of the numbers; it changes with any of them."""

_WORD = 2**32 - 1
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
# Streams that a seed and a column have beside each other.
_SIGNS, _NORMALS = 0, 1

# 512 counters give 2048 normal numbers: first all that come from the first cosine, then from the first sine, and so on.
_COUNTERS = 512
# Counters at a time. On a CPU the numbers stay in the cache, and PyTorch uses one thread up to 32,768 elements: several
# would cut a logarithm at places that depend on their number, and beside a cut its last digit is another one.
_ON_CPU, _ELSEWHERE = 2**14, 2**21


def philox(indices: Tensor, columns: Tensor, stream: int, seed: int) -> list[Tensor]:
    """The four words of Philox4x32-10 for each column (k, 1) and index (m,): int64 tensors (k, m).

    The counter has the index in its first two words, the column in its third and the stream in its fourth. The seed is
    the key.
    """
    shape = len(columns), len(indices)
    a, b, c = ((indices & _WORD).repeat(shape[0], 1), (indices >> 32).repeat(shape[0], 1), columns.repeat(1, shape[1]))
    d = torch.full_like(c, stream)
    key, other = seed & _WORD, seed >> 32 & _WORD
    for _ in range(_ROUNDS):
        # The upper half of a word may hold anything until the word is multiplied.
        low, high = a.bitwise_and_(_WORD).mul_(_MULTIPLIERS[0]), c.bitwise_and_(_WORD).mul_(_MULTIPLIERS[1])
        a, c = b.bitwise_xor_(high >> 32).bitwise_xor_(key), d.bitwise_xor_(low >> 32).bitwise_xor_(other)
        b, d = high, low
        key, other = key + _WEYL[0] & _WORD, other + _WEYL[1] & _WORD
    return [word.bitwise_and_(_WORD) for word in (a, b, c, d)]


def signs(out: Tensor, seed: int, start: int = 0) -> None:
    """Fill rows ``out``, (k, n), with +1 and −1 with equal chance: entries ``start`` to ``start + n`` of k columns."""
    # Entry i of row b is the sign for bit i of the byte b.
    bits = torch.arange(256, device=out.device).unsqueeze(1) >> torch.arange(8, device=out.device) & 1
    table = (1 - 2 * bits).to(out.dtype)
    shifts = torch.arange(0, 32, 8, device=out.device)

    def made(indices: Tensor, columns: Tensor) -> Tensor:
        words = torch.stack(philox(indices, columns, _SIGNS, seed), dim=-1)
        return table.index_select(0, (words.unsqueeze(-1) >> shifts & 255).flatten())

    # A counter gives a sign for each of its 128 bits, so that fewer counters fill the cache.
    _fill(out, start, made, each=128, granule=1, share=4)


def normals(out: Tensor, seed: int, start: int = 0) -> None:
    """Fill rows ``out``, (k, n), with standard normal numbers: entries ``start`` to ``start + n`` of k columns.

    They are made in float32 and converted to the dtype of ``out``.
    """

    def made(indices: Tensor, columns: Tensor) -> Tensor:
        words = [word.view(-1, _COUNTERS).float() for word in philox(indices, columns, _NORMALS, seed)]
        found = torch.empty(len(words[0]), 4, _COUNTERS, device=out.device, dtype=torch.float32)
        for place in (0, 2):
            lengths, angles = words[place : place + 2]
            lengths.add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
            angles.mul_(2 * math.pi * 2.0**-32)
            torch.mul(angles.cos(), lengths, out=found[:, place])
            torch.mul(angles.sin_(), lengths, out=found[:, place + 1])
        return found

    _fill(out, start, made, each=4, granule=_COUNTERS, share=1)


def _fill(
    out: Tensor, start: int, made: Callable[[Tensor, Tensor], Tensor], *, each: int, granule: int, share: int
) -> None:
    """Write the numbers of whole granules of counters, some at a time, where they belong.

    Args:
        out: where to.
        start: the index of the first entry of each row.
        made: the numbers for some indices of counters and some columns.
        each: how many numbers a counter gives.
        granule: how many counters give numbers together.
        share: by how much fewer counters than usual go at a time.
    """
    k, n = out.shape
    most = (_ON_CPU if out.device.type == "cpu" else _ELSEWHERE) // share
    begin, end = start // (each * granule) * granule, -(-(start + n) // (each * granule)) * granule
    # Short columns go together.
    wide = max(1, most // max(1, end - begin))
    for column in range(0, k, wide):
        rows = out[column : column + wide]
        columns = torch.arange(column, column + len(rows), device=out.device).unsqueeze(1)
        for first in range(begin, end, most):
            last = min(first + most, end)
            numbers = made(torch.arange(first, last, device=out.device), columns).view(len(rows), -1)
            low, high = max(start, first * each), min(start + n, last * each)
            rows[:, low - start : high - start] = numbers[:, low - first * each : high - first * each]
