"""Every operator that detection knows spreads entries as its numeric Jacobian does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hesse._sparse.following import Following
from hesse._sparse.rules import ATTENTION, MOVES, RULES, UNIONS
from hesse._sparse.sets import Dependence, Sets

aten = torch.ops.aten
Sample = tuple[Callable[[Tensor], Any], tuple[int, ...]]

PLACES = torch.tensor([2, 0, 3])
MATRIX = torch.tensor([[2.0, 0, 1], [0, 3, 0], [0, 0, 4]], dtype=torch.float64)
SQUARE = torch.tensor([[4.0, 1, 2], [1, 5, 1], [2, 1, 6]], dtype=torch.float64)
VECTOR = torch.tensor([0.0, 2.0, 3.0], dtype=torch.float64)
KERNEL = torch.tensor([[[1.0, 0, 2]], [[0, 3, 0]]], dtype=torch.float64)
STENCIL = torch.tensor([[0.0, 1, 0], [1, -4, 1]], dtype=torch.float64)[None, None]
GRID = torch.linspace(-0.8, 0.7, 24, dtype=torch.float64).reshape(2, 2, 2, 3)
MASK = torch.tensor([[True, False, True], [False, True, True]])
ROWS = torch.tensor([[0, 2, 1], [1, 0, 0]])


def ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.float64)


def pooled(rank: int) -> tuple[Tensor, Tensor]:
    """A signal whose maxima are at known places, and those places."""
    signal = torch.arange(4.0**rank, dtype=torch.float64).sin().reshape(1, 1, *[4] * rank)
    return signal, getattr(F, f"max_pool{rank}d")(signal, 2, return_indices=True)[1]


def resampling(rank: int) -> dict[str, list[Sample]]:
    """Padding, interpolation and pooling of signals with so many dimensions, and their backwards."""
    long, short = [4] * rank, [2] * rank
    shape, less = (1, 2, *long), (1, 2, *short)
    scales, padding = [None] * rank, [1, 2] + [1, 0] * (rank - 1)
    found: dict[str, list[Sample]] = {}
    for kind in ("reflection", "replication"):
        pad = getattr(aten, f"{kind}_pad{rank}d").default
        back = getattr(aten, f"{kind}_pad{rank}d_backward").default
        wide = pad(ones(*shape), padding).shape
        found[f"{kind}_pad{rank}d"] = [(lambda x, pad=pad: pad(x, padding), shape)]
        found[f"{kind}_pad{rank}d_backward"] = [(lambda x, back=back: back(x, ones(*shape), padding), tuple(wide))]
    for kind in ("upsample_nearest", "_upsample_nearest_exact"):
        up = getattr(aten, f"{kind}{rank}d").default
        back = getattr(aten, f"{kind}{rank}d_backward").default
        found[f"{kind}{rank}d"] = [(lambda x, up=up: up(x, [6] * rank, *scales), less)]
        found[f"{kind}{rank}d_backward"] = [
            (lambda x, back=back: back(x, [6] * rank, list(less), *scales), (1, 2, *[6] * rank))
        ]
    for name in {
        1: ["upsample_linear1d"],
        2: ["upsample_bilinear2d", "upsample_bicubic2d"],
        3: ["upsample_trilinear3d"],
    }[rank]:
        back = getattr(aten, f"{name}_backward").default
        found[f"{name}_backward"] = [
            (lambda x, back=back: back(x, [5] * rank, list(shape), False, *scales), (1, 2, *[5] * rank))
        ]
    return found


def planes(rank: int) -> dict[str, list[Sample]]:
    """Pooling of planes or volumes, and what goes back to the places of maxima."""
    signal, places = pooled(rank)
    average = getattr(aten, f"avg_pool{rank}d").default
    back = getattr(aten, f"avg_pool{rank}d_backward").default
    adaptive = getattr(aten, f"_adaptive_avg_pool{rank}d").default
    adaptive_back = getattr(aten, f"_adaptive_avg_pool{rank}d_backward").default
    unpool = getattr(aten, f"max_unpool{rank}d").default
    shape, three = (1, 2, *[5] * rank), (1, 2, *[3] * rank)
    arguments = ([2] * rank, [2] * rank, [1] * rank, False, True, None)
    small = tuple(average(ones(*shape), *arguments).shape)
    grown = [4] * rank
    more = ([2] * rank, [0] * rank) if rank == 3 else ()
    fractional = getattr(aten, f"fractional_max_pool{rank}d_backward").default
    adaptive_maxima = getattr(aten, f"adaptive_max_pool{rank}d_backward").default
    maxima = getattr(aten, f"max_pool{rank}d_with_indices_backward").default
    window = ([2] * rank, [2] * rank, [0] * rank, [1] * rank, False)
    halves = tuple(places.shape)
    return {
        f"avg_pool{rank}d": [(lambda x: average(x, *arguments), shape), (lambda x: average(x, [3]), shape[1:])],
        f"avg_pool{rank}d_backward": [(lambda x: back(x, ones(*shape), *arguments), small)],
        f"_adaptive_avg_pool{rank}d": [(lambda x: adaptive(x, [3] * rank), shape)],
        f"_adaptive_avg_pool{rank}d_backward": [(lambda x: adaptive_back(x, ones(*shape)), three)],
        f"max_unpool{rank}d": [(lambda x: unpool(x, places, grown, *more), halves)],
        f"max_pool{rank}d_with_indices_backward": [(lambda x: maxima(x, signal, *window, places), halves)],
        f"adaptive_max_pool{rank}d_backward": [(lambda x: adaptive_maxima(x, signal, places), halves)],
        f"fractional_max_pool{rank}d_backward": [
            (lambda x: fractional(x, signal, [2] * rank, [2] * rank, places), halves)
        ],
    }


def convolutions() -> dict[str, list[Sample]]:
    kernel, sparse = ones(4, 2, 3), KERNEL
    geometry = ([2], [1], [2])

    def back(x: Tensor | None, signal: Tensor | None, weight: Tensor | None, transposed: bool, groups: int) -> Any:
        upper = ones(1, 4, 4) if x is None else x
        return aten.convolution_backward(
            upper, signal, weight, [4], *geometry, transposed, [0], groups, [True, True, True]
        )

    made = aten.convolution(ones(1, 4, 7), kernel, None, *geometry, False, [0], 2).shape
    plain = ones(4, 4, 3)
    return {
        "convolution": [
            (lambda x: aten.convolution(x, kernel, ones(4), *geometry, False, [0], 2), (2, 4, 7)),
            (lambda x: aten.convolution(x, sparse, None, *geometry, False, [0], 1), (2, 1, 7)),
            (lambda x: aten.convolution(x, sparse, None, *geometry, False, [0], 2), (1, 2, 7)),
            (lambda x: aten.convolution(x, kernel, None, *geometry, True, [1], 2), (2, 4, 3)),
            (lambda x: aten.convolution(x, sparse, None, *geometry, True, [1], 1), (1, 2, 3)),
            (lambda x: aten.convolution(ones(2, 4, 7), x, None, [1], [0], [1], False, [0], 2), (4, 2, 3)),
            (lambda x: aten.convolution(ones(2, 4, 7), kernel, x, *geometry, False, [0], 2), (4,)),
            (lambda x: aten.convolution(x, STENCIL, None, [1, 2], [1, 0], [1, 1], False, [0, 0], 1), (1, 1, 4, 5)),
            (lambda x: aten.convolution(x, ones(2, 3, 2, 2), None, [1], [0], [1], False, [0], 1), (1, 3, 3, 4)),
        ],
        "convolution_backward": [
            (lambda x: back(x, ones(1, 4, 7), plain, False, 1)[0], tuple(made)),
            (lambda x: back(x, ones(1, 4, 7), plain, False, 1)[2], tuple(made)),
            (lambda x: back(x, ones(1, 4, 7), kernel, False, 2)[0], tuple(made)),
        ],
    }


# Their rules go by channels only.
COARSE: dict[str, list[Sample]] = {
    "convolution": [(lambda x: aten.convolution(ones(2, 4, 7), x, None, [1], [0], [1], True, [0], 2), (4, 2, 3))],
    "convolution_backward": [
        (
            lambda x: aten.convolution_backward(
                x, ones(1, 4, 5), ones(4, 2, 3), [4], [1], [0], [1], False, [0], 2, [True, True, True]
            )[1],
            (1, 4, 3),
        ),
        (
            lambda x: aten.convolution_backward(
                ones(1, 4, 3), x, ones(4, 2, 3), [4], [1], [0], [1], False, [0], 2, [True, True, True]
            )[1],
            (1, 4, 5),
        ),
        (
            lambda x: aten.convolution_backward(
                ones(1, 4, 3), ones(1, 4, 5), x, [4], [1], [0], [1], False, [0], 2, [True, True, True]
            )[0],
            (4, 2, 3),
        ),
        (
            lambda x: aten.convolution_backward(
                ones(1, 4, 7), x, ones(4, 2, 3), [4], [1], [0], [1], True, [0], 2, [True, True, True]
            )[1],
            (1, 4, 5),
        ),
    ],
    "grid_sampler_2d_backward": [
        (
            lambda x, i=i: aten.grid_sampler_2d_backward(x, ones(2, 2, 3, 3), GRID[..., :2], 0, 0, False, [True, True])[
                i
            ],
            (2, 2, 2, 2),
        )
        for i in range(2)
    ],
    "grid_sampler_3d": [(lambda x: aten.grid_sampler_3d(x, GRID[:, None], 0, 0, False), (2, 1, 3, 3, 3))],
    "grid_sampler_3d_backward": [
        (
            lambda x: aten.grid_sampler_3d_backward(x, ones(2, 1, 3, 3, 3), GRID[:, None], 0, 0, False, [True, True])[
                0
            ],
            (2, 1, 1, 2, 2),
        )
    ],
    "linalg_solve_triangular": [
        (lambda x: aten.linalg_solve_triangular(MATRIX, x, upper=True), (2, 3, 2)),
    ],
    "triangular_solve": [(lambda x: aten.triangular_solve(x, MATRIX)[0], (3, 2))],
    "_linalg_solve_ex": [(lambda x: aten._linalg_solve_ex(SQUARE, x)[0], (3, 2))],
    "linalg_lu_solve": [
        (lambda x: aten.linalg_lu_solve(*torch.linalg.lu_factor(SQUARE), x), (3, 2)),
    ],
    "cholesky_solve": [(lambda x: aten.cholesky_solve(x, torch.linalg.cholesky(SQUARE)), (3, 2))],
    "linalg_inv_ex": [(lambda x: aten.linalg_inv_ex(x)[0], (2, 2, 2))],
    "cholesky_inverse": [(lambda x: aten.cholesky_inverse(x), (2, 2, 2))],
    "_linalg_solve_ex of a vector": [(lambda x: aten._linalg_solve_ex(SQUARE, x)[0], (3,))],
}


SAMPLES: dict[str, list[Sample]] = {
    "as_strided_scatter": [
        (lambda x: aten.as_strided_scatter(x, ones(2, 2), [2, 2], [1, 3], 1), (3, 3)),
        (lambda x: aten.as_strided_scatter(ones(3, 3), x, [2, 2], [1, 3], 1), (2, 2)),
    ],
    "cat": [(lambda x: aten.cat([x, ones(2, 3), x * 2], 1), (2, 3))],
    "channel_shuffle": [(lambda x: aten.channel_shuffle(x, 2), (1, 4, 2, 2))],
    "constant_pad_nd": [(lambda x: aten.constant_pad_nd(x, [1, -1, 0, 2], 5.0), (2, 3))],
    "diag_embed": [(lambda x: aten.diag_embed(x, 1), (2, 3))],
    "diagonal_scatter": [(lambda x: aten.diagonal_scatter(x, ones(2)), (2, 3))],
    "flip": [(lambda x: aten.flip(x, [1]), (2, 3))],
    "gather": [(lambda x: aten.gather(x, 1, ROWS), (2, 3))],
    "im2col": [(lambda x: aten.im2col(x, [2, 2], [1, 1], [1, 0], [2, 1]), (1, 2, 3, 4))],
    "index": [
        (lambda x: aten.index(x, [PLACES, None]), (4, 2)),
        (lambda x: aten.index(x, [MASK]), (2, 3)),
    ],
    "index_copy": [
        (lambda x: aten.index_copy(x, 0, PLACES, ones(3, 2)), (4, 2)),
        (lambda x: aten.index_copy(ones(4, 2), 0, PLACES, x), (3, 2)),
    ],
    "index_fill": [(lambda x: aten.index_fill(x, 0, PLACES, 2.0), (4, 2))],
    "index_put": [
        (lambda x: aten.index_put(x, [PLACES], ones(2)), (4, 2)),
        (lambda x: aten.index_put(ones(4, 2), [PLACES], x, True), (2,)),
        (lambda x: aten.index_put(x, [torch.tensor([0, 0])], x[:1] * 2, True), (4, 2)),
        (lambda x: x.clone().index_put_((PLACES,), x[:3] * 2), (4, 2)),
    ],
    "_index_put_impl": [(lambda x: aten._index_put_impl_(x.clone(), [PLACES], ones(3, 2), True, False), (4, 2))],
    "_unsafe_index": [(lambda x: aten._unsafe_index(x, [PLACES]), (4, 2))],
    "_unsafe_index_put": [(lambda x: aten._unsafe_index_put(ones(4, 2), [PLACES], x), (3, 2))],
    "index_select": [(lambda x: aten.index_select(x, 1, PLACES), (2, 4))],
    "index_add": [
        (lambda x: aten.index_add(x, 1, torch.tensor([0, 0]), x[:, :2] * 2), (2, 3)),
        (lambda x: aten.index_add(x, 0, torch.tensor([0]), ones()), ()),
    ],
    "masked_scatter": [(lambda x: aten.masked_scatter(ones(2, 3), MASK, x), (7,))],
    "masked_scatter_backward": [(lambda x: aten.masked_scatter_backward(x, MASK, [7]), (2, 3))],
    "masked_select": [(lambda x: aten.masked_select(x, MASK), (2, 3))],
    "pixel_shuffle": [(lambda x: aten.pixel_shuffle(x, 2), (1, 4, 2, 3))],
    "pixel_unshuffle": [(lambda x: aten.pixel_unshuffle(x, 2), (1, 1, 4, 2))],
    "put": [
        (lambda x: aten.put(x, PLACES, ones(3)), (2, 3)),
        (lambda x: aten.put(ones(2, 3), torch.tensor([1, 1, 4]), x, True), (3,)),
    ],
    "repeat": [(lambda x: aten.repeat(x, [2, 1, 2]), (2, 3))],
    "roll": [(lambda x: aten.roll(x, [1], [1]), (2, 3))],
    "scatter": [
        (lambda x: aten.scatter(x, 1, torch.tensor([[0], [2]]), ones(2, 3)), (2, 3)),
        (lambda x: aten.scatter(ones(2, 3), 1, torch.tensor([[0, 1], [2, 1]]), x), (2, 3)),
        (lambda x: aten.scatter(x, 1, torch.tensor([[0], [2]]), 4.0), (2, 3)),
    ],
    "scatter_add": [(lambda x: aten.scatter_add(x, 1, torch.tensor([[0, 0], [2, 1]]), x * 2), (2, 3))],
    "select_backward": [(lambda x: aten.select_backward(x, [3, 2], 0, 1), (2,))],
    "select_scatter": [(lambda x: aten.select_scatter(x, ones(3), 0, 1), (2, 3))],
    "slice_backward": [(lambda x: aten.slice_backward(x, [5, 2], 0, 1, 5, 2), (2, 2))],
    "slice_scatter": [(lambda x: aten.slice_scatter(x, ones(2, 2), 1, 1), (2, 3))],
    "stack": [(lambda x: aten.stack([x, ones(3), x * 2], 1), (3,))],
    "take": [(lambda x: aten.take(x, PLACES), (2, 3))],
    "tril": [(lambda x: aten.tril(x, -1), (3, 3))],
    "triu": [(lambda x: aten.triu(x, 1), (3, 3))],
    "unsafe_split": [(lambda x: torch.cat(aten.unsafe_split(x, 2)[::-1]), (5,))],
    "unsafe_split_with_sizes": [(lambda x: torch.cat(aten.unsafe_split_with_sizes(x, [2, 3])[::-1]), (5,))],
    "clone": [(lambda x: aten.clone(x.mT), (2, 3))],
    "complex": [(lambda x: aten.complex(x[0], x[1]), (2, 3))],
    "polar": [(lambda x: aten.polar(x, ones(3)), (3,))],
    "_conj_physical": [(lambda x: aten._conj_physical(torch.complex(x, x)), (3,))],
    "hardshrink_backward": [(lambda x: aten.hardshrink_backward(x, ones(3), 0.5), (3,))],
    "softshrink_backward": [(lambda x: aten.softshrink_backward(x, ones(3), 0.5), (3,))],
    "lift_fresh_copy": [(lambda x: aten.lift_fresh_copy(x), (3,))],
    "native_dropout_backward": [(lambda x: aten.native_dropout_backward(x, torch.tensor([True] * 3), 2.0), (3,))],
    "masked_fill": [(lambda x: aten.masked_fill(x, MASK, 2.0), (2, 3))],
    "where": [(lambda x: aten.where(MASK, x, 2 * x[:1]), (2, 3))],
    "_to_copy": [(lambda x: aten._to_copy(x, dtype=torch.float32), (3,))],
    "sum": [
        (lambda x: aten.sum(x, [0, -1], True), (2, 3, 2)),
        (lambda x: aten.sum(x), (2, 3)),
        (lambda x: aten.sum(x, 1), (2, 3)),
    ],
    "mean": [(lambda x: aten.mean(x, [1]), (2, 3)), (lambda x: aten.mean(x), (2, 3))],
    "nansum": [(lambda x: aten.nansum(x, [1]), (2, 3))],
    "cumsum": [(lambda x: aten.cumsum(x, 1), (2, 3, 2)), (lambda x: aten.cumsum(x, 0), ())],
    "mul": [(lambda x: aten.mul(x, VECTOR), (2, 3)), (lambda x: aten.mul(VECTOR, x), (2, 3)), (lambda x: x * 2, (3,))],
    "copy": [(lambda x: ones(2, 3).copy_(x), (3,)), (lambda x: x.clone().copy_(x[:1]), (2, 3))],
    "fill": [(lambda x: ones(2, 3).fill_(x), ()), (lambda x: x.clone().fill_(3.0), (2,))],
    "_fft_r2c": [(lambda x: torch.view_as_real(aten._fft_r2c(x, [1], 0, True)).sum(-1), (2, 5))],
    "_fft_c2c": [(lambda x: torch.view_as_real(aten._fft_c2c(torch.complex(x, 2 * x), [1], 0, True)).sum(-1), (2, 5))],
    "_fft_c2r": [(lambda x: aten._fft_c2r(torch.complex(x, 2 * x), [1], 0, 5), (2, 3))],
    "mm": [(lambda x: aten.mm(x, MATRIX), (2, 3)), (lambda x: aten.mm(MATRIX, x), (3, 2))],
    "bmm": [
        (lambda x: aten.bmm(x, MATRIX.expand(2, 3, 3)), (2, 4, 3)),
        (lambda x: aten.bmm(torch.stack((MATRIX, MATRIX.T)), x), (2, 3, 2)),
        (lambda x: aten.bmm(ones(2, 2, 3), x), (2, 3, 2)),
    ],
    "mv": [(lambda x: aten.mv(x, VECTOR), (2, 3)), (lambda x: aten.mv(MATRIX, x), (3,))],
    "dot": [(lambda x: aten.dot(x, VECTOR), (3,)), (lambda x: aten.dot(VECTOR, x), (3,))],
    "vdot": [(lambda x: aten.vdot(x, VECTOR), (3,))],
    "addmm": [
        (lambda x: aten.addmm(x[0], x, MATRIX), (2, 3)),
        (lambda x: aten.addmm(ones(3, 2), MATRIX, x), (3, 2)),
    ],
    "addmv": [(lambda x: aten.addmv(x, MATRIX, x), (3,)), (lambda x: aten.addmv(ones(2), x, VECTOR), (2, 3))],
    "baddbmm": [(lambda x: aten.baddbmm(x, MATRIX.expand(2, 3, 3), x), (2, 3, 3))],
    "addbmm": [
        (lambda x: aten.addbmm(x[0], x, ones(2, 3, 3)), (2, 3, 3)),
        (lambda x: aten.addbmm(ones(3, 2), ones(2, 3, 3), x), (2, 3, 2)),
    ],
    "_sparse_mm": [(lambda x: torch.sparse.mm(MATRIX.to_sparse(), x), (3, 2))],
    "_sparse_addmm": [(lambda x: torch.sparse.addmm(x, MATRIX.to_sparse(), x), (3, 2))],
    "linalg_matrix_exp": [(lambda x: aten.linalg_matrix_exp(x), (2, 2, 2))],
    **{name: [(lambda x, name=name: getattr(aten, name)(x), (3,))] for name in ("zeros_like", "ones_like")},
    **{name: [(lambda x, name=name: getattr(aten, name)(x) * 0, (3,))] for name in ("empty_like", "rand_like")},
    "randn_like": [(lambda x: aten.randn_like(x) * 0, (3,))],
    "randint_like": [(lambda x: aten.randint_like(x, 5) * 0, (3,))],
    "full_like": [(lambda x: aten.full_like(x, 2.0), (3,))],
    "new_empty": [(lambda x: aten.new_empty(x, [2]) * 0, (3,))],
    "new_empty_strided": [(lambda x: aten.new_empty_strided(x, [2], [1]) * 0, (3,))],
    "new_full": [(lambda x: aten.new_full(x, [2], 3.0), (3,))],
    "new_ones": [(lambda x: aten.new_ones(x, [2]), (3,))],
    "new_zeros": [(lambda x: aten.new_zeros(x, [2]), (3,))],
    "zero": [(lambda x: x.clone().zero_(), (3,))],
    **resampling(1),
    **resampling(2),
    **resampling(3),
    **planes(2),
    **planes(3),
    **convolutions(),
}


def found_and_numeric(sample: Sample) -> tuple[Any, Any, Following]:
    """Which entries of a result depend on which of the argument: as detection says, and by differences."""
    func, shape = sample
    size = int(np.prod(shape))
    constants = [MATRIX, SQUARE, VECTOR, MASK, STENCIL, KERNEL]
    sets = Sets(2**30)
    following = Following(sets, constants)
    x = torch.linspace(0.6, 1.7, size, dtype=torch.float64).sin().reshape(shape).clone()
    rows = torch.arange(1, size + 1, dtype=torch.int32).reshape(shape)
    following.start(x, Dependence(rows, sets.identity(size)))
    with following:
        part = following.found(func(x))
    at_x = func(x.clone())
    found = np.zeros((at_x.numel(), size), bool) if part is None else sets.matrix(part).toarray()
    columns = []
    for i in range(size):
        moved = x.clone().reshape(-1)
        moved[i] += 0.37
        columns.append((func(moved.reshape(shape)) != at_x).reshape(-1).numpy())
    return found, np.stack(columns, 1), following


def test_every_operator_of_the_lists_has_a_sample() -> None:
    # Attention has a test of its own in ``test_detection.py``.
    assert not (MOVES | UNIONS | RULES.keys()) - SAMPLES.keys() - COARSE.keys() - ATTENTION


@pytest.mark.parametrize("name", sorted(SAMPLES))
@pytest.mark.one_in(3)
def test_a_known_operator_spreads_entries_as_its_differences_do(name: str) -> None:
    for sample in SAMPLES[name]:
        found, numeric, following = found_and_numeric(sample)
        np.testing.assert_array_equal(found, numeric)
        assert not following.unknown


# PyTorch says once a process that triangular_solve has a successor; whoever calls it first is told.
@pytest.mark.filterwarnings("ignore:torch.triangular_solve is deprecated")
@pytest.mark.parametrize("name", sorted(COARSE))
def test_an_operator_with_a_coarse_rule_spreads_entries_at_least_as_its_differences_do(name: str) -> None:
    for sample in COARSE[name]:
        found, numeric, _ = found_and_numeric(sample)
        assert not (numeric & ~found).any()
        assert numeric.any()
