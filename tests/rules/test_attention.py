"""Attention by PyTorch's fused CPU kernel, against attention in plain operations, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

import hesse
from hesse._rules.attention import blocks
from tests.functional.references import assert_values
from tests.functional.structures import REPRODUCIBLE
from tests.functional.test_compiled_functions import HAS_COMPILER

from .attention import Call, attention, calls, draw, fused
from .judge import assert_right, assert_thrice_differentiable, refusal, vectors_like

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(params=[None, 6], ids=["whole", "in_blocks"])
def block_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small problems are one block; these are cut into many, of two rows and more."""
    if request.param is not None:
        monkeypatch.setattr(blocks, "_ON_CPU", blocks._Size(scores=request.param, least_rows=2, most_rows=3))
    return


def expected(call: Call, v: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return torch.autograd.functional.vhp(call.through(attention), call.tensors, v)[1]


@pytest.mark.usefixtures("block_size")
@REPRODUCIBLE
@given(call=calls())
@pytest.mark.one_in(2)
def test_products_agree_with_attention_in_plain_operations(call: Call) -> None:
    v = vectors_like(call.tensors)
    value = call.through(attention)(*call.tensors)
    for product in (hesse.vhp, hesse.hvp):
        assert_values(product(call.through(fused), call.tensors, v), (value, expected(call, v)), **CLOSE)
    assert_values(hesse.Hessian(call.through(fused), call.tensors) @ v, expected(call, v), **CLOSE)


@REPRODUCIBLE
@given(call=calls())
def test_third_derivatives_agree_with_attention_in_plain_operations(call: Call) -> None:
    v, w = vectors_like(call.tensors), vectors_like(call.tensors, seed=2)

    def third(
        vhp: Callable[..., tuple[Tensor, tuple[Tensor, ...]]], function: Callable[..., Tensor]
    ) -> tuple[Tensor, ...]:
        x = tuple([leaf.detach().requires_grad_() for leaf in call.tensors])
        u = tuple([entry.detach().requires_grad_() for entry in v])
        product = vhp(call.through(function), x, u, create_graph=True)[1]
        return torch.autograd.grad(product, (*x, *u), w, materialize_grads=True, allow_unused=True)

    assert_values(third(hesse.vhp, fused), third(torch.autograd.functional.vhp, attention), **CLOSE)


@settings(REPRODUCIBLE, max_examples=8)
@given(call=calls())
def test_jacobians_agree_with_attention_in_plain_operations(call: Call) -> None:
    reference = hesse.Jacobian(lambda *x: call.through(attention)(*x), call.tensors).to_dense()
    for batching in ("loop", "vmap"):
        J = hesse.Jacobian(lambda *x: call.through(fused)(*x), call.tensors, batching=batching)
        V = torch.eye(J.shape[1], dtype=torch.float64)
        assert_values(J @ V, reference, **CLOSE)


def test_pytorch_has_no_second_derivative() -> None:
    x = (draw(1, 2, 3, 4), draw(1, 2, 3, 4), draw(1, 2, 3, 4))
    message = refusal(lambda *x: F.scaled_dot_product_attention(*x).square().sum(), x)
    assert "_scaled_dot_product_flash_attention_for_cpu_backward" in message


def cubed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (F.scaled_dot_product_attention(query, key, value, is_causal=True) ** 3).sum()


# PyTorch says so itself of any vmap of attention.
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_products_of_every_kind_agree_with_differences_of_the_gradient() -> None:
    torch.manual_seed(0)
    assert_right(cubed, (draw(1, 2, 3, 2), draw(1, 2, 4, 2), draw(1, 2, 4, 2)))
    assert_thrice_differentiable(cubed, (draw(1, 1, 3, 2), draw(1, 1, 4, 2), draw(1, 1, 4, 2)))


def test_blocks_of_an_odd_problem_agree_with_it_as_a_whole() -> None:
    """Longer than a block by some, with more heads than fit into one."""
    torch.manual_seed(1)
    inputs = tuple([torch.randn(2, 3, n, 16, dtype=torch.float64) for n in (517, 389, 389)])
    v = vectors_like(inputs)
    for is_causal in (False, True):
        func = lambda *x, is_causal=is_causal: (  # noqa: E731  # a function in one line
            F.scaled_dot_product_attention(*x, is_causal=is_causal) ** 2
        ).sum()
        product = hesse.vhp(func, inputs, v)[1]
        with sdpa_kernel(SDPBackend.MATH):
            assert_values(product, torch.autograd.functional.vhp(func, inputs, v)[1], **CLOSE)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
@pytest.mark.parametrize("is_causal", [False, True])
def test_in_lower_precision_products_are_as_right_as_their_dtype(
    dtype: torch.dtype, tolerance: float, is_causal: bool
) -> None:
    torch.manual_seed(0)
    inputs = tuple([torch.randn(2, 4, 40, 8, dtype=dtype) for _ in range(3)])
    v = vectors_like(inputs)
    func = lambda *x: (F.scaled_dot_product_attention(*x, is_causal=is_causal).float() ** 2).sum()  # noqa: E731  # a function in one line
    product = hesse.vhp(func, inputs, v)[1]
    double = lambda *x: (attention(*x, is_causal=is_causal) ** 2).sum()  # noqa: E731  # a function in one line
    exact = torch.autograd.functional.vhp(
        double, tuple([leaf.double() for leaf in inputs]), tuple([entry.double() for entry in v])
    )[1]
    for entry, reference in zip(product, exact, strict=True):
        assert entry.dtype is dtype
        assert (entry.double() - reference).norm() <= tolerance * reference.norm()


def test_dropout_is_one_mask_at_a_point() -> None:
    torch.manual_seed(0)
    inputs = (draw(1, 2, 5, 3), draw(1, 2, 5, 3), draw(1, 2, 5, 3))
    v = vectors_like(inputs)
    func = lambda *x: (F.scaled_dot_product_attention(*x, dropout_p=0.4) ** 2).sum()  # noqa: E731  # a function in one line

    def gradient_at(shift: float) -> tuple[Tensor, ...]:
        torch.manual_seed(7)
        x = tuple([(leaf + shift * entry).requires_grad_() for leaf, entry in zip(inputs, v, strict=True)])
        return torch.autograd.grad(func(*x), x)

    differences = tuple([(a - b) / 2e-5 for a, b in zip(gradient_at(1e-5), gradient_at(-1e-5), strict=True)])
    torch.manual_seed(7)
    H = hesse.Hessian(func, inputs)
    assert_values(H @ v, differences, rtol=1e-6, atol=1e-8)
    assert_values(H @ v, H @ v, rtol=0, atol=0)
    torch.manual_seed(7)
    assert_values(hesse.vhp(func, inputs, v)[1], H @ v)


def test_values_and_gradients_are_those_of_the_fused_kernel_bit_for_bit() -> None:
    torch.manual_seed(0)
    x = tuple([torch.randn(2, 2, 70, 8).requires_grad_() for _ in range(3)])
    H = hesse.Hessian(cubed, x)
    value = cubed(*x)
    assert torch.equal(H.value, value)
    for ours, theirs in zip(H.gradient, torch.autograd.grad(value, x), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.exhaustive
def test_no_square_of_the_length_is_ever_allocated() -> None:
    """The largest tensor that any operation makes grows with the length as the inputs do."""

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for entry in result if isinstance(result, tuple | list) else (result,):
                if isinstance(entry, Tensor):
                    self.elements = max(self.elements, entry.untyped_storage().nbytes() // entry.element_size())
            return result

    def largest(length: int, product: Callable[..., object]) -> int:
        x = tuple([torch.randn(1, 1, length, 8) for _ in range(3)])
        with Largest() as seen:
            product(cubed, x, x)
        return seen.elements

    for product in (hesse.vhp, hesse.hvp, lambda func, x, v: hesse.Hessian(func, x) @ v):
        assert largest(8192, product) <= max(2.1 * largest(4096, product), 2**20)
        assert largest(8192, product) < 8192**2 / 50


def test_a_traced_product_calls_the_blocks_and_does_not_spell_them_out() -> None:
    torch.manual_seed(0)
    x, v = (tuple([torch.randn(1, 2, 150, 4, dtype=torch.float64) for _ in range(3)]) for _ in range(2))

    def product(*entries: Tensor) -> tuple[Tensor, ...]:
        return hesse.vhp(cubed, entries[:3], entries[3:])[1]

    for tracing_mode in ("real", "fake", "symbolic"):
        traced = make_fx(product, tracing_mode=tracing_mode)(*x, *v)
        assert_values(traced(*v, *x), product(*v, *x))
        assert len(traced.graph.nodes) < 100
        assert any(node.target is torch.ops.hesse.attention_tangents.default for node in traced.graph.nodes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keys", [1, 7])
def test_the_operators_of_the_blocks_say_what_their_results_look_like(dtype: torch.dtype, keys: int) -> None:
    query, cotangent = torch.randn(2, 4, 5, 3, dtype=dtype), torch.randn(2, 4, 5, 2, dtype=dtype)
    key, value = torch.randn(2, 2, keys, 3, dtype=dtype), torch.randn(2, 2, keys, 2, dtype=dtype)
    kept, directions = (cotangent, query, key, value, cotangent, None, False, None), (None, query, key, None)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.hesse.attention_gradients.default, kept, test_utils=checks)
    torch.library.opcheck(torch.ops.hesse.attention_tangents.default, (*kept, *directions, False), test_utils=checks)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.skipif(not HAS_COMPILER, reason="programs are compiled by a C++ compiler")
def test_a_program_multiplies_through_attention_as_the_tape_does() -> None:
    torch.manual_seed(0)
    x, v = (tuple([torch.randn(1, 2, 70, 4) for _ in range(3)]) for _ in range(2))
    with hesse.Hessian(cubed, x, engine="compiled") as H:
        assert_values(H @ v, hesse.Hessian(cubed, x) @ v)
        assert H.explain().engine == "compiled"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_masked_by_the_least_number_see_all_keys_alike(dtype: torch.dtype) -> None:
    """The logarithm of the sum of such a row's exponentials is lost to rounding; its softmax is not."""
    torch.manual_seed(0)
    query, key, value, v = [torch.randn(1, 1, 4, 3, dtype=dtype) for _ in range(4)]
    mask = torch.zeros(4, 4, dtype=dtype)
    mask[1] = torch.finfo(dtype).min
    weights = (query @ key.mT / 3**0.5 + mask).softmax(-1)
    assert_values(hesse.Jacobian(lambda value: fused(query, key, value, mask), value) @ v, weights @ v)
    # PyTorch's own gradient, which uses the logarithm, is wrong for them; docs/limits.md says so until it is not.
    value.requires_grad_()
    gradient = torch.autograd.grad(fused(query, key, value, mask).sum(), value)[0]
    assert not torch.allclose(gradient, weights.mT @ torch.ones_like(v))


def test_scores_that_are_no_numbers_give_no_numbers() -> None:
    query, key, value = [torch.randn(1, 1, 80, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    mask = torch.zeros(80, 80)
    query[0, 0, 3, 0] = torch.nan

    def func(query: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).sum()

    assert hesse.vhp(func, query, torch.ones_like(query))[1][0, 0, 3].isnan().all()
