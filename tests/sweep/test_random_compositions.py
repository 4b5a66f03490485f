"""Products through random compositions of operators, shapes and dtypes, against differences of the gradient."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import hesse

from .eager import distance_to_finite_differences, largest
from .sweep import Case

Step = Callable[[Tensor, Tensor], Tensor]
"""Makes the next value of the present one and an earlier one of any shape; every value is a matrix."""


def like(x: Tensor, y: Tensor) -> Tensor:
    """The entries of y, repeated or cut to the shape of x."""
    return y.reshape(-1).repeat(-(-x.numel() // y.numel()))[: x.numel()].reshape(x.shape)


def constant(rows: int, columns: int, x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(rows * 31 + columns)
    return (torch.randn((rows, columns), dtype=torch.float64, generator=generator) / rows**0.5).to(x.dtype)


def through_rows(x: Tensor) -> Tensor:
    return torch.func.vmap(lambda row: row.cumsum(0) * row.sin())(x)


FOR_ALL: dict[str, Step] = {
    "sin": lambda x, y: x.sin(),
    "tanh": lambda x, y: (x / 4).tanh(),
    "square": lambda x, y: x * x / 2,
    "times": lambda x, y: x * like(x, y),
    "plus": lambda x, y: x + like(x, y).cos(),
    "divided": lambda x, y: x / (2 + (like(x, y) * like(x, y).conj()).real),
    "matmul": lambda x, y: x @ constant(x.shape[1], 3, x),
    "gram": lambda x, y: x @ x.mH / 4,
    "transposed": lambda x, y: x.mT,
    "flipped": lambda x, y: x.flip(1) * 2,
    "rolled": lambda x, y: torch.roll(x, 1, 0) - x,
    "cumsum": lambda x, y: x.cumsum(1) / 2,
    "cumprod": lambda x, y: x.cumprod(0),
    "mean taken off": lambda x, y: x - x.mean(0, keepdim=True),
    "row of sums": lambda x, y: x.sum(0, keepdim=True) * x,
    "chosen": lambda x, y: x[:, torch.arange(x.shape[1] + 1) % x.shape[1]][:, :4],
    "stacked": lambda x, y: torch.cat((x, 2 * x.sin()))[:4],
    "padded": lambda x, y: F.pad(x, (1, 0))[:, :4],
    "reshaped": lambda x, y: x.reshape(-1, 1) if x.numel() < 4 else x.reshape(1, -1)[:, :6],
    "in place": lambda x, y: x.clone().mul_(x).add_(0.5),
    "written into": lambda x, y: x.clone().index_put_((torch.tensor([0]),), x[-1:].sin()),
    "put": lambda x, y: torch.zeros_like(x).scatter_add(1, torch.zeros_like(x, dtype=torch.long), x * x),
    "vmap": lambda x, y: through_rows(x),
    "strided": lambda x, y: x.contiguous().as_strided((x.shape[0], 1), (x.shape[1], 1)).expand(-1, 2) * 1.5,
}
FOR_REAL: dict[str, Step] = {
    "softmax": lambda x, y: x.softmax(1) * 3,
    "log softmax": lambda x, y: x.log_softmax(0),
    "logsumexp": lambda x, y: x.logsumexp(1, keepdim=True) * x,
    "gelu": lambda x, y: F.gelu(x),
    "silu": lambda x, y: F.silu(x),
    "softplus": lambda x, y: F.softplus(x),
    "elu": lambda x, y: F.elu(x),
    "hardsigmoid": lambda x, y: F.hardsigmoid(x) * x,
    "relu": lambda x, y: x.relu() * x,
    "layer norm": lambda x, y: F.layer_norm(torch.cat((x, x.sin() + 0.3), 1), (2 * x.shape[1],), eps=0.1)[:, :4],
    "shifted layer norm": lambda x, y: F.layer_norm(x, x.shape[1:], None, like(x, y)[0], eps=0.5),
    "cdist": lambda x, y: torch.cdist(x, x.flip(0) * 1.5 + 0.4),
    "cdist, p = 3": lambda x, y: torch.cdist(x, x.sin() + 2, p=3.0),
    "convolution": lambda x, y: F.conv1d(x.unsqueeze(0), constant(x.shape[0], 3, x).T.unsqueeze(2)).squeeze(0),
    "pooling": lambda x, y: F.avg_pool1d(F.pad(x, (1, 1)), 2),
    "attention": lambda x, y: F.scaled_dot_product_attention(x[None], x[None].sin(), x[None])[0],
    "bag": lambda x, y: F.embedding_bag(torch.zeros((2, 2), dtype=torch.long), x, mode="mean"),
    "segments": lambda x, y: torch.segment_reduce(x, "prod", lengths=torch.tensor([len(x)])),
    "sorted": lambda x, y: x.sort(1).values * 2,
    "maximum": lambda x, y: torch.maximum(x, like(x, y)) * x,
    "norm": lambda x, y: x / torch.linalg.vector_norm(x + 3, dim=1, keepdim=True),
    "variance": lambda x, y: x * (x.var(0, keepdim=True, correction=0) + 0.1).sqrt(),
    "solved": lambda x, y: torch.linalg.solve(x.mT @ x + torch.eye(x.shape[1], dtype=x.dtype), x.mT),
    "determinant": lambda x, y: torch.linalg.slogdet(x.mT @ x + torch.eye(x.shape[1], dtype=x.dtype)).logabsdet * x,
    "cross entropy": lambda x, y: x * F.cross_entropy(x, torch.zeros(len(x), dtype=torch.long)),
    "checkpoint": lambda x, y: torch.utils.checkpoint.checkpoint(lambda x: x.sin() * x, x, use_reentrant=False),
}
STEPS = {torch.float64: FOR_ALL | FOR_REAL, torch.float32: FOR_ALL | FOR_REAL, torch.complex128: FOR_ALL}

# Where there is a kink, or rounding swallows the difference, one point in thousands may fail for no fault: so the
# examples are always the same.
EXAMPLES = settings(
    max_examples=4000, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@st.composite
def compositions(draw: st.DrawFn) -> tuple[torch.dtype, tuple[tuple[int, int], ...], list[tuple[str, int]], int]:
    """A dtype, the shapes of one or two inputs, steps with the place of the earlier value they use, and a seed."""
    dtype = draw(st.sampled_from(list(STEPS)))
    shapes = tuple(draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=2)))
    steps = draw(st.lists(st.tuples(st.sampled_from(sorted(STEPS[dtype])), st.integers(0, 9)), min_size=1, max_size=6))
    return dtype, shapes, steps, draw(st.integers(0, 2**16))


def composed(steps: list[tuple[str, int]]) -> Callable[..., Tensor]:
    table = FOR_ALL | FOR_REAL

    def func(*inputs: Tensor) -> Tensor:
        values = list(inputs)
        for name, place in steps:
            value = table[name](values[-1], values[place % len(values)])
            # Tamed: numbers that grow would leave nothing for differences to see.
            values.append(value / (1 + (value * value.conj()).real.mean()).sqrt())
        total = sum([(value.abs() ** 2).sum() if value.is_complex() else value.sin().sum() for value in values])
        return total.sin() + values[-1].real.sum()

    return func


@pytest.mark.exhaustive
@EXAMPLES
@given(compositions())
def test_products_agree_with_differences_of_the_gradient(composition: tuple) -> None:
    dtype, shapes, steps, seed = composition
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    inputs = tuple([torch.randn(shape, dtype=wide, generator=generator) for shape in shapes])
    case = Case(composed(steps), inputs)
    vector = case.vector()
    product = hesse.vhp(case.func, case.inputs, vector)[1]
    if not all(bool(entry.isfinite().all()) for entry in product):
        return
    assert distance_to_finite_differences(case, vector, product, 1e-5) <= 1e-5
    with hesse.Hessian(case.func, case.inputs) as H:
        for kept, entry in zip(H @ vector, product, strict=True):
            torch.testing.assert_close(kept, entry, rtol=1e-9, atol=1e-9 * max(1.0, largest(product)))
    if dtype is torch.float32:
        narrow = [tuple([entry.float() for entry in entries]) for entries in (inputs, vector)]
        single = hesse.vhp(case.func, *narrow)[1]
        scale = max(largest(product), 1.0)
        assert largest([a - b for a, b in zip(single, product, strict=True)]) <= 0.02 * scale


def test_every_step_is_right_alone() -> None:
    """The same without Hypothesis, one step at a time, in every run of the tests."""
    for dtype, name in itertools.chain.from_iterable(
        [(d, n) for n in STEPS[d]] for d in (torch.float64, torch.complex128)
    ):
        inputs = (torch.randn((2, 3), dtype=dtype, generator=torch.Generator().manual_seed(1)),)
        case = Case(composed([(name, 0)]), inputs)
        product = hesse.vhp(case.func, case.inputs, case.vector())[1]
        assert distance_to_finite_differences(case, case.vector(), product, 1e-6) <= 1e-6, name
