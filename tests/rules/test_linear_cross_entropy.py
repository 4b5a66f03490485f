"""Linear layers with cross entropy in chunks, against the loss without chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import hesse
from tests.functional.references import DOUBLE, assert_values

from .judge import assert_right, assert_thrice_differentiable, vectors_like

if not hasattr(F, "linear_cross_entropy"):
    pytest.skip("F.linear_cross_entropy came with PyTorch 2.13", allow_module_level=True)

TARGET = torch.tensor([0, 4, 1, 1, 2, 3, 0])
CHUNKS = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=2, allow_retain_graph=True)

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weighted": {"weight": torch.tensor([0.5, 2.0, 1.0, 0.0, 1.5], dtype=DOUBLE)},
    "an index ignored": {"ignore_index": 1},
}
REDUCTIONS = ("mean", "sum", "none")


def point(bias: bool = True) -> tuple[Tensor, ...]:
    """More samples than features, so that there are several chunks, and the last is short."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((7, 3), (5, 3), (5,))[: 2 + bias]
    return tuple([torch.randn(shape, dtype=DOUBLE, generator=generator) for shape in shapes])


def through_the_loss(chunks: Any = CHUNKS, **options: Any) -> Callable[..., Tensor]:
    def func(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        loss = F.linear_cross_entropy(x.sin(), weight, TARGET, linear_bias=bias, options=chunks, **options)
        return (loss.sin() * torch.arange(1.0, loss.numel() + 1, dtype=DOUBLE).reshape(loss.shape)).sum()

    return func


def test_pytorchs_double_backward_is_wrong_or_raises() -> None:
    v = vectors_like(point())
    expected = torch.autograd.functional.vhp(through_the_loss(None), point(), v)[1]
    theirs = torch.autograd.functional.vhp(through_the_loss(), point(), v)[1]
    assert (theirs[1] - expected[1]).abs().max() > 0.01
    with pytest.raises(RuntimeError, match=r"functions with out=\.\.\. arguments"):
        torch.autograd.functional.vhp(through_the_loss(reduction="none"), point(), v)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.one_in(11)
def test_products_agree_with_differences_of_the_gradient(reduction: str, options: str, bias: bool) -> None:
    assert_right(through_the_loss(reduction=reduction, **OPTIONS[options]), point(bias))


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_products_by_one_of_the_tensors_are_those_without_chunks(reduction: str, place: int) -> None:
    def by_one(func: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: func(*point()[:place], x, *point()[place + 1 :])

    x = point()[place]
    v = vectors_like((x,))[0]
    expected = torch.autograd.functional.vhp(by_one(through_the_loss(None, reduction=reduction)), x, v)[1]
    assert_values(hesse.vhp(by_one(through_the_loss(reduction=reduction)), x, v)[1], expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_third_derivatives_agree_with_differences_of_products(reduction: str) -> None:
    assert_thrice_differentiable(through_the_loss(reduction=reduction, weight=OPTIONS["weighted"]["weight"]), point())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.private
def test_values_and_gradients_are_those_without_chunks(reduction: str) -> None:
    chunked = hesse.Hessian(through_the_loss(reduction=reduction), point())
    plain = hesse.Hessian(through_the_loss(None, reduction=reduction), point())
    assert_values(chunked.value, plain.value)
    assert_values(chunked.gradient, plain.gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    inputs = tuple([leaf.to(dtype) for leaf in point()])
    v = tuple([entry.to(dtype) for entry in vectors_like(point())])

    def loss(options: Any) -> Callable[..., Tensor]:
        return lambda x, weight, bias: F.linear_cross_entropy(x, weight, TARGET, linear_bias=bias, options=options)

    product = hesse.vhp(loss(torch.nn.LinearCrossEntropyOptions(acc_dtype=torch.float32)), inputs, v)[1]
    wide = [tuple([entry.double() for entry in entries]) for entries in (inputs, v)]
    expected = torch.autograd.functional.vhp(loss(None), *wide)[1]
    for entry, reference in zip(product, expected, strict=True):
        assert entry.dtype == dtype
        assert_values(entry.double(), reference, rtol=0, atol=2 * torch.finfo(dtype).eps * float(reference.abs().max()))


def test_a_sample_without_a_batch_is_right() -> None:
    x, weight, _ = point()

    def loss(options: Any) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, weight: F.linear_cross_entropy(x, weight, torch.tensor(3), options=options) ** 2

    v = vectors_like((x[0], weight))
    expected = torch.autograd.functional.vhp(loss(None), (x[0], weight), v)[1]
    assert_values(hesse.vhp(loss(CHUNKS), (x[0], weight), v)[1], expected)


def test_no_more_than_a_chunk_of_logits_is_ever_held() -> None:
    """A vocabulary so large that all logits would be 80 MB, where no tensor may have more than 2."""
    tokens, width, words = 1000, 8, 20_000
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn((2, tokens, width), generator=generator)
    weight, w = torch.randn((2, words, width), generator=generator)
    target = torch.randint(words, (tokens,), generator=generator)
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=8)
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **kwargs or {})
            sizes.extend([entry.nbytes for entry in torch.utils._pytree.tree_leaves(result) if torch.is_tensor(entry)])
            return result

    with Watch():
        hesse.vhp(lambda x, weight: F.linear_cross_entropy(x, weight, target, options=options), (x, weight), (v, w))
    assert max(sizes) <= 2 * 4 * width * words
