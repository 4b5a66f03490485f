"""The rules of cuDNN's and MIOpen's batch normalization: their formula, not the kernels, which no test machine has.

Operators of these names and schemas run here on the CPU, by PyTorch's own batch normalization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from hesse._rules import RULES
from tests.functional.references import DOUBLE

from .judge import assert_right, assert_thrice_differentiable, pytorch_differentiates_thrice
from .test_normalization import draw, wavy

KINDS = ("cudnn", "miopen")


def _forward(x, weight, bias, mean, var, training, momentum, eps):  # type: ignore[no-untyped-def]  # the schema's
    return torch.native_batch_norm(x, weight, bias, mean, var, training, momentum, eps)


def _backward(x, g, weight, mean, var, save_mean, save_invstd, eps, *reserve):  # type: ignore[no-untyped-def]  # the schema's
    return torch.ops.aten.native_batch_norm_backward(
        g, x, weight, mean, var, save_mean, save_invstd, True, eps, [True, True, True]
    )


@pytest.fixture(scope="module", autouse=True)
def _on_the_cpu() -> Iterator[None]:
    library = torch.library.Library("aten", "IMPL")
    library.impl("cudnn_batch_norm", lambda *arguments: (*_forward(*arguments), torch.empty(0)), "CPU")
    library.impl("miopen_batch_norm", _forward, "CPU")
    for kind in KINDS:
        library.impl(f"{kind}_batch_norm_backward", _backward, "CPU")
    yield
    library._destroy()


def _layer(kind: str) -> Callable[..., Tensor]:
    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        operator = getattr(torch.ops.aten, f"{kind}_batch_norm")
        return wavy(operator(x.sin(), weight, bias, None, None, True, 0.1, 1e-5)[0])

    return layer


INPUTS = (draw(3, 2, 2), draw(2), draw(2, seed=1))


@pytest.mark.parametrize("kind", KINDS)
def test_pytorch_has_wrong_third_derivatives(kind: str) -> None:
    assert not pytorch_differentiates_thrice(_layer(kind), INPUTS)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_agree_with_differences(kind: str) -> None:
    assert INPUTS[0].dtype == DOUBLE
    assert_right(_layer(kind), INPUTS)
    assert_thrice_differentiable(_layer(kind), INPUTS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tensors_of_16_bits_have_gradients_of_their_own_dtypes(kind: str, dtype: torch.dtype) -> None:
    x, weight, g = draw(3, 2, 2).to(dtype), draw(2).float(), draw(3, 2, 2, seed=2).to(dtype)
    mean, invstd = torch.zeros(2), torch.ones(2)
    found = RULES[f"aten::{kind}_batch_norm_backward"].rewrite(x, g, weight, None, None, mean, invstd, 1e-5)
    assert [entry.dtype for entry in found] == [dtype, torch.float32, torch.float32]
