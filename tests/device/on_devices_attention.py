"""Fused attention under CUDA's keys: kernels by plain operations, and the rules, programs and refusals around them.

The kernels are stand-ins with the schemas of PyTorch's own. Judged by ``torch.autograd.functional.vhp`` of attention in
plain operations, in float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import hesse
from tests.device.entries import CPU, numbers
from tests.linearize import programs

B, H, L, E = 2, 2, 5, 4
W, X, BIAS = numbers(3 * H * E, H * E) / 3, numbers(B, L, H * E, seed=1), numbers(B, H, L, L, seed=2)


def _scores(q: Tensor, k: Tensor, bias: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    scores = q @ k.mT * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(mask, -math.inf)
    return scores


def _forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float | None) -> Any:
    scores = _scores(q, k, bias, causal, scale)
    output = scores.softmax(-1) @ v
    # Kernels leave heads next to one another.
    return output.transpose(1, 2).contiguous().transpose(1, 2), scores.logsumexp(-1)


def _backward(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float | None
) -> list[Tensor]:
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    P = _scores(q, k, bias, causal, scale).softmax(-1)
    dP = g @ v.mT
    dS = P * (dP - (P * dP).sum(-1, keepdim=True))
    return [
        torch.empty_like(t).copy_(f)
        for t, f in zip((q, k, v), (factor * dS @ k, factor * dS.mT @ q, P.mT @ g), strict=True)
    ] + [dS]


def _seeds(q: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros((), dtype=torch.int64, device=q.device), torch.zeros((), dtype=torch.int64, device=q.device)


def _efficient(q, k, v, bias, lse, p=0.0, causal=False, *, scale=None):  # type: ignore[no-untyped-def]  # the schema's
    return (*_forward(q, k, v, bias, causal, scale), *_seeds(q))


def _efficient_backward(g, q, k, v, bias, out, lse, s, o, p, wanted, causal=False, *, scale=None):  # type: ignore[no-untyped-def]  # the schema's
    *found, by_bias = _backward(g, q, k, v, bias, causal, scale)
    return *found, by_bias if bias is not None and wanted[3] else None


def _flash(q, k, v, p=0.0, causal=False, debug=False, *, scale=None):  # type: ignore[no-untyped-def]  # the schema's
    output, lse = _forward(q, k, v, None, causal, scale)
    return output, lse, None, None, L, L, *_seeds(q), q.new_empty(0)


def _flash_backward(g, q, k, v, out, lse, cq, ck, mq, mk, p, causal, s, o, *, scale=None):  # type: ignore[no-untyped-def]  # the schema's
    return tuple(_backward(g, q, k, v, None, causal, scale)[:3])


def _cudnn(q, k, v, bias, lse, p=0.0, causal=False, debug=False, *, scale=None):  # type: ignore[no-untyped-def]  # the schema's
    output, lse = _forward(q, k, v, bias, causal, scale)
    return output, lse, None, None, L, L, *_seeds(q), q.new_empty(0)


def _cudnn_backward(g, q, k, v, out, lse, s, o, bias, cq, ck, mq, mk, p, causal, *, scale=None):  # type: ignore[no-untyped-def]  # the schema's
    return tuple(_backward(g, q, k, v, bias, causal, scale)[:3])


KERNELS = {
    "efficient": (_efficient, _efficient_backward),
    "flash": (_flash, _flash_backward),
    "cudnn": (_cudnn, _cudnn_backward),
}


@pytest.fixture(scope="module", autouse=True)
def _kernels() -> Iterator[None]:
    library = torch.library.Library("aten", "IMPL")
    for name, (forward, backward) in KERNELS.items():
        library.impl(f"_scaled_dot_product_{name}_attention", forward, "CUDA")
        library.impl(f"_scaled_dot_product_{name}_attention_backward", backward, "CUDA")
    yield
    library._destroy()


def _parts(w: Tensor, x: Tensor) -> list[Tensor]:
    return [part.reshape(B, L, H, E).transpose(1, 2) for part in (x @ w.mT).chunk(3, -1)]


def _attend(name: str, bias: bool, causal: bool, p: float = 0.0) -> Callable[[Tensor], Tensor]:
    ops = torch.ops.aten
    x, mask = X.to("cuda"), BIAS.to("cuda") if bias else None
    calls: dict[str, Callable[[list[Tensor]], Tensor]] = {
        "efficient": lambda qkv: ops._scaled_dot_product_efficient_attention(*qkv, mask, True, p, causal)[0],
        "flash": lambda qkv: ops._scaled_dot_product_flash_attention(*qkv, p, causal)[0],
        "cudnn": lambda qkv: ops._scaled_dot_product_cudnn_attention(*qkv, mask, True, p, causal)[0],
    }
    return lambda w: calls[name](_parts(w, x)).square().sum()


def _reference(v: Tensor, bias: bool, causal: bool) -> Tensor:
    def plain(w: Tensor) -> Tensor:
        return (
            F.scaled_dot_product_attention(
                *_parts(w, X.double()), attn_mask=BIAS.double() if bias else None, is_causal=causal
            )
            .square()
            .sum()
        )

    with sdpa_kernel(SDPBackend.MATH):
        product: Tensor = torch.autograd.functional.vhp(plain, W.double(), v.double())[1]
    return product


CASES = [
    (name, bias, causal)
    for name in KERNELS
    for bias in (False, True)
    for causal in (False, True)
    if not bias or not (causal or name == "flash")
]


@pytest.mark.parametrize(("name", "bias", "causal"), CASES)
def test_direct_kernels_have_products_by_every_engine(name: str, bias: bool, causal: bool) -> None:
    f, v = _attend(name, bias, causal), numbers(*W.shape, seed=3)
    expected = _reference(v, bias, causal)
    w, on_device = W.to("cuda"), v.to("cuda")
    found = {
        "hvp": hesse.hvp(f, w, on_device)[1],
        "tape": hesse.Hessian(f, w, engine="tape") @ on_device,
        "program": programs.hessian(f, w) @ on_device,
        "columns": (hesse.Hessian(f, w, engine="tape") @ on_device.reshape(-1, 1).repeat(1, 3))[:, 1].view_as(w),
    }
    for way, product in found.items():
        torch.testing.assert_close(product.cpu().double(), expected, rtol=1e-4, atol=1e-4, msg=lambda m: f"{way}: {m}")  # noqa: B023  # read at once


@pytest.mark.parametrize("name", KERNELS)
def test_programs_with_dropout_inside_of_a_kernel_are_refused(name: str) -> None:
    with pytest.raises((hesse.CaptureError, hesse.NoDerivativeError, NotImplementedError)):
        programs.hessian(_attend(name, False, False, p=0.5), W.to("cuda")) @ torch.ones_like(W, device="cuda")


def test_a_model_that_chooses_a_kernel_by_itself() -> None:
    layer = torch.nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.0, device=CPU).double()
    x, v = numbers(2, 5, 8, seed=4).double(), numbers(2, 5, 8, seed=5).double()

    def loss(model: torch.nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda x: model(x).square().sum()

    with sdpa_kernel(SDPBackend.MATH):
        expected = torch.autograd.functional.vhp(loss(layer), x, v)[1]
    on_device = layer.to("cuda")
    product = hesse.vhp(loss(on_device), x.to("cuda"), v.to("cuda"))[1]
    torch.testing.assert_close(product.cpu(), expected, rtol=1e-8, atol=1e-8)
