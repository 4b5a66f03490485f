"""The pattern of random compositions of operators holds the numeric one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hesse._sparse.detection import hessian_pattern

from .patterns import Function, jacobian_pattern, numeric_jacobian_pattern, numeric_pattern

BAND = torch.diag(torch.ones(6, dtype=torch.float64)) + 0.5 * torch.diag(torch.ones(5, dtype=torch.float64), 1)
KERNEL = torch.tensor([[[0.7, 0.0, -0.4]]], dtype=torch.float64)
PLACES = torch.tensor([3, 0, 0, 5, 2, 1])
CHOSEN = torch.tensor([True, False, True, True, False, True])


def written(x: Tensor, y: Tensor) -> Tensor:
    z = torch.zeros_like(x)
    z[1:4] = x[:3] * y[1:4]
    z[0] += y[5]
    z.view(2, 3)[1].mul_(y[:3])
    return z + x


Step = Callable[[Tensor, Tensor], Tensor]
"""Makes the next value of the present one and an earlier one; every value has six entries."""

STEPS: dict[str, Step] = {
    "sin": lambda x, y: x.sin(),
    "square": lambda x, y: x * x / 2,
    "times": lambda x, y: x * y,
    "divided": lambda x, y: x / (2 + y * y),
    "differences": lambda x, y: torch.cat((x[1:] - x[:-1], y[:1])),
    "rolled": lambda x, y: x.roll(2) + y,
    "flipped": lambda x, y: x.flip(0),
    "gathered": lambda x, y: x[PLACES] * y,
    "added at places": lambda x, y: torch.zeros_like(x).index_add(0, PLACES, x * y),
    "put": lambda x, y: x.index_put((PLACES[3:],), y[:3]),
    "scattered": lambda x, y: x.scatter_add(0, PLACES, y),
    "largest": lambda x, y: torch.maximum(x, y),
    "where": lambda x, y: torch.where(CHOSEN, x, y * y),
    "where by value": lambda x, y: torch.where(x > y, x * y, y.sin()),
    "band": lambda x, y: BAND @ x,
    "bands": lambda x, y: (x.reshape(2, 3) @ BAND[:3, :3] + y.reshape(3, 2).T).reshape(-1),
    "masked": lambda x, y: x * CHOSEN + y.masked_fill(CHOSEN, 0),
    "convolved": lambda x, y: F.conv1d(x.reshape(1, 1, 6), KERNEL, padding=1).reshape(-1),
    "convolved back": lambda x, y: F.conv_transpose1d(x.reshape(1, 1, 6), KERNEL, padding=1).reshape(-1),
    "pooled": lambda x, y: F.avg_pool1d(F.pad(x, (1, 1)).reshape(1, 1, 8), 3, stride=1).reshape(-1),
    "maxima": lambda x, y: F.max_pool1d(x.reshape(1, 1, 6), 2).reshape(-1).repeat(2) * y,
    "softmax of rows": lambda x, y: x.reshape(3, 2).softmax(1).reshape(-1) * y,
    "normalized rows": lambda x, y: F.layer_norm(x.reshape(3, 2), (2,), eps=0.5).reshape(-1),
    "sums so far": lambda x, y: x.reshape(2, 3).cumsum(1).reshape(-1),
    "sums of rows": lambda x, y: (x.reshape(2, 3) - x.reshape(2, 3).mean(1, keepdim=True)).reshape(-1),
    "sorted": lambda x, y: x.sort().values,
    "relu": lambda x, y: (x + 0.2).relu() * x,
    "clamped": lambda x, y: x.clamp(-0.5, 0.8) * y,
    "strided": lambda x, y: x.contiguous().as_strided((3, 2), (2, 1)).T.reshape(-1),
    "complex": lambda x, y: torch.view_as_real(torch.view_as_complex(x.reshape(3, 2).contiguous()) ** 2).reshape(-1),
    "written into": written,
    "vmap": lambda x, y: torch.func.vmap(lambda r, s: r * s.sum())(x.reshape(2, 3), y.reshape(2, 3)).reshape(-1),
    "checkpoint": lambda x, y: torch.utils.checkpoint.checkpoint(lambda x: x.sin() * y, x, use_reentrant=False),
    "detached": lambda x, y: x * y.detach() + y,
}

EXAMPLES = settings(
    max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def composed(steps: list[tuple[str, int]]) -> Function:
    def func(x: Tensor) -> Tensor:
        values = [x]
        for name, place in steps:
            values.append(STEPS[name](values[-1], values[place % len(values)]))
        return values[-1]

    return func


steps = st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9)), min_size=1, max_size=5)


@EXAMPLES
@given(steps)
def test_the_pattern_of_a_composition_holds_the_numeric_one(steps: list[tuple[str, int]]) -> None:
    map = composed(steps)
    # The very point that numbers are taken at: which entry is largest is a matter of the point.
    x = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    numeric = numeric_pattern(lambda x: map(x).pow(2).sum(), (x,), points=1)
    assert not (numeric & ~hessian_pattern(lambda x: map(x).pow(2).sum(), x).toarray()).any()
    assert not (numeric_jacobian_pattern(map, x, points=1) & ~jacobian_pattern(map, x).toarray()).any()


@pytest.mark.parametrize("place", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_every_step_is_right_alone(place: int) -> None:
    for name in STEPS:
        map = composed([("square", 0), (name, place)])
        x = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        numeric = numeric_pattern(lambda x, map=map: map(x).pow(2).sum(), (x,), points=1)
        found = hessian_pattern(lambda x, map=map: map(x).pow(2).sum(), x).toarray()
        assert not (numeric & ~found).any(), name
