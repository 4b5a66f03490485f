"""The rules of attention's kernels on CUDA devices: their formulas, not the kernels.

These kernels run on no machine that these tests have run on. What is tested is all that is ours: that a rule reads the
arguments of the operator as its schema has them, and that derivatives agree with attention in plain operations when an
operator of that name and schema is computed here, on the CPU, by plain operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hesse
from hesse._rules import RULES
from hesse._rules.attention import kernels
from hesse._rules.attention.formula import gradient
from tests.functional.references import assert_values
from tests.functional.structures import REPRODUCIBLE

from .attention import attention, draw
from .judge import vectors_like

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
NOWHERE = torch.empty(0)


@pytest.fixture(scope="module", autouse=True)
def _on_the_cpu() -> Iterator[None]:
    """The three operators on CPU tensors, by plain operations; nothing else has ever registered them there."""
    library = torch.library.Library("aten", "IMPL")

    def flash(cotangent: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any, scale: Any = None) -> Any:
        return gradient(cotangent, query, key, value, None, rest[7], scale)[:3]

    def cudnn(cotangent: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any, scale: Any = None) -> Any:
        return gradient(cotangent, query, key, value, rest[4], rest[10], scale)[:3]

    def efficient(
        cotangent: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *rest: Any, scale: Any = None
    ) -> Any:
        # The dispatcher leaves out is_causal where it is false, its default.
        return gradient(cotangent, query, key, value, mask, len(rest) > 6 and rest[6], scale)

    for name, function in ((kernels.FLASH, flash), (kernels.CUDNN, cudnn), (kernels.EFFICIENT, efficient)):
        library.impl(name.removeprefix("aten::"), function, "CPU")
    yield
    library._destroy()


class Fused(torch.autograd.Function):
    """Attention whose backward calls one of the operators, as the node of PyTorch's own forward does."""

    @staticmethod
    def forward(
        ctx: Any,
        name: str,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        is_causal: bool,
        scale: float | None,
        dropout: float,
    ) -> Tensor:
        output = attention(query, key, value, mask, is_causal, scale)
        ctx.settings = name, is_causal, scale, dropout
        ctx.save_for_backward(query, key, value, mask, output)
        return output

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        name, is_causal, scale, dropout = ctx.settings
        query, key, value, mask, output = ctx.saved_tensors
        point = (cotangent, query, key, value)
        sizes = (NOWHERE, NOWHERE, query.shape[2], key.shape[2])
        operators = torch.ops.aten
        by_mask = None
        if name == kernels.FLASH:
            found = operators._scaled_dot_product_flash_attention_backward(
                *point, output, NOWHERE, *sizes, dropout, is_causal, NOWHERE, NOWHERE, scale=scale
            )
        elif name == kernels.CUDNN:
            found = operators._scaled_dot_product_cudnn_attention_backward(
                *point, output, NOWHERE, NOWHERE, NOWHERE, mask, *sizes, dropout, is_causal, scale=scale
            )
        else:
            *found, by_mask = operators._scaled_dot_product_efficient_attention_backward(
                *point, mask, output, NOWHERE, NOWHERE, NOWHERE, dropout, [True] * 4, is_causal, scale=scale
            )
        return None, *found, by_mask if ctx.needs_input_grad[4] else None, None, None, None


def scalar(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *x: function(*x).sin().sum()


@st.composite
def problems(choose: st.DrawFn) -> tuple[str, tuple[Tensor, ...], bool, float | None]:
    """A kernel, its tensors (a mask is one of them where there is one), whether it is causal, and the scale."""
    torch.manual_seed(choose(st.integers(0, 2**16)))
    name = choose(st.sampled_from([kernels.FLASH, kernels.CUDNN, kernels.EFFICIENT]))
    is_causal, shared = choose(st.booleans()), choose(st.sampled_from([1, 2]))
    length, keys = choose(st.integers(1, 4)), choose(st.integers(1, 4))
    if is_causal and name != kernels.EFFICIENT:
        keys = length
    tensors = [draw(1, 2 * shared, length, 3), draw(1, 2, keys, 3), draw(1, 2, keys, 3)]
    if name == kernels.EFFICIENT and not is_causal and choose(st.booleans()):
        tensors.append(torch.randn(1, 2 * shared, length, keys, dtype=torch.float64))
    return name, tuple(tensors), is_causal, choose(st.sampled_from([None, 0.4]))


@REPRODUCIBLE
@given(problem=problems())
def test_products_and_third_derivatives_agree_with_plain_operations(
    problem: tuple[str, tuple[Tensor, ...], bool, float | None],
) -> None:
    name, x, is_causal, scale = problem

    def fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return Fused.apply(name, query, key, value, mask, is_causal, scale, 0.0)

    def plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return attention(query, key, value, mask, is_causal, scale)

    v, w = vectors_like(x), vectors_like(x, seed=2)
    expected = torch.autograd.functional.vhp(scalar(plain), x, v)[1]
    assert_values(hesse.vhp(scalar(fused), x, v)[1], expected, **CLOSE)
    assert_values(hesse.hvp(scalar(fused), x, v)[1], expected, **CLOSE)

    def third(function: Callable[..., Tensor], vhp: Callable[..., Any]) -> tuple[Tensor, ...]:
        leaves = tuple([leaf.clone().requires_grad_() for leaf in x])
        return torch.autograd.grad(vhp(scalar(function), leaves, v, create_graph=True)[1], leaves, w)

    assert_values(third(fused, hesse.vhp), third(plain, torch.autograd.functional.vhp), **CLOSE)


def test_a_constant_mask_of_cudnn_is_added() -> None:
    torch.manual_seed(0)
    x, mask = (draw(1, 2, 3, 3), draw(1, 2, 4, 3), draw(1, 2, 4, 3)), torch.randn(1, 2, 3, 4, dtype=torch.float64)
    v = vectors_like(x)
    fused = lambda *x: Fused.apply(kernels.CUDNN, *x, mask, False, None, 0.0)  # noqa: E731  # a function in one line
    expected = torch.autograd.functional.vhp(scalar(lambda *x: attention(*x, mask)), x, v)[1]
    assert_values(hesse.vhp(scalar(fused), x, v)[1], expected, **CLOSE)


@pytest.mark.parametrize("name", [kernels.FLASH, kernels.CUDNN, kernels.EFFICIENT])
def test_dropout_is_refused_since_its_mask_cannot_be_known(name: str) -> None:
    x = (draw(1, 2, 3, 3), draw(1, 2, 3, 3), draw(1, 2, 3, 3))
    fused = lambda *x: Fused.apply(name, *x, None, False, None, 0.3)  # noqa: E731  # a function in one line
    with pytest.raises(NotImplementedError, match=f"{name} cannot be differentiated with dropout.*MATH"):
        hesse.vhp(scalar(fused), x, x)


@pytest.mark.parametrize("name", [kernels.FLASH, kernels.CUDNN])
def test_causal_attention_over_another_number_of_keys_is_refused(name: str) -> None:
    x = (draw(1, 2, 3, 3), draw(1, 2, 4, 3), draw(1, 2, 4, 3))
    fused = lambda *x: Fused.apply(name, *x, None, True, None, 0.0)  # noqa: E731  # a function in one line
    with pytest.raises(NotImplementedError, match=f"{name} cannot be differentiated for causal attention"):
        hesse.vhp(scalar(fused), x, x)


def test_every_kernel_has_a_rule() -> None:
    assert {kernels.CPU, kernels.FLASH, kernels.CUDNN, kernels.EFFICIENT} <= set(RULES)
