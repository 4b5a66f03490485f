"""Section 1: a product through each operator the page names, against a dense float64 Hessian."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import hesse

from .references import DOUBLE, assert_values, dense_product


def _gumbel_softmax(x: Tensor) -> Tensor:
    # One draw for every evaluation, or there is no function to differentiate.
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return F.gumbel_softmax(x, tau=0.7)


def _max_unpool(x: Tensor) -> Tensor:
    pooled, indices = F.max_pool3d(x.sin(), 2, return_indices=True)
    return nn.MaxUnpool3d(2)(pooled, indices)


def _hooked(x: Tensor) -> Tensor:
    with saved_tensors_hooks(lambda saved: saved.clone(), lambda packed: packed):
        return x.sin() * x.exp()


def _bernoulli(**parameters: Tensor) -> Tensor:
    return torch.distributions.Bernoulli(**parameters).log_prob(torch.tensor([0.0, 1.0, 1.0], dtype=DOUBLE))


OPERATORS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "vdot": (lambda x: torch.vdot(x.sin(), x.exp()), (4,)),
    "vsplit": (lambda x: torch.vsplit(x, 2)[0] * torch.vsplit(x, 2)[1], (4, 2)),
    "vstack": (lambda x: torch.vstack((x, x.flip(0))) ** 3, (3,)),
    "view_as_real": (lambda x: torch.view_as_real(torch.complex(x[0], x[1]) ** 3), (2, 3)),
    "view_as_complex": (lambda x: (torch.view_as_complex(x) ** 3).abs(), (3, 2)),
    "vander": (torch.linalg.vander, (4,)),
    "var": (lambda x: torch.var(x, dim=0), (4, 2)),
    "var_mean": (lambda x: torch.stack(torch.var_mean(x, dim=1)), (2, 3)),
    "vector_norm": (lambda x: torch.linalg.vector_norm(x, ord=3, dim=1), (2, 3)),
    "vector_norm-2": (lambda x: torch.linalg.vector_norm(x), (2, 3)),
    "frexp": (lambda x: torch.frexp(x.exp()).mantissa, (4,)),
    "cholesky": (lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(3, dtype=x.dtype)), (3, 3)),
    "ELU": (nn.ELU(alpha=1.3), (5,)),
    "gumbel_softmax": (_gumbel_softmax, (2, 3)),
    "saved_tensors_hooks": (_hooked, (4,)),
    "positive": (lambda x: torch.positive(x) ** 3, (4,)),
    "renorm": (lambda x: torch.renorm(x, p=2, dim=0, maxnorm=0.5), (2, 3)),
    "AvgPool2d": (nn.AvgPool2d(2), (1, 1, 4, 4)),
    "MaxUnpool3d": (_max_unpool, (1, 1, 2, 2, 4)),
    "Bernoulli-probs": (lambda x: _bernoulli(probs=x.sigmoid()), (3,)),
    "Bernoulli-logits": (lambda x: _bernoulli(logits=x), (3,)),
}


@pytest.mark.parametrize("product", [hesse.vhp, hesse.hvp], ids=["vhp", "hvp"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_product_through_the_operator_is_that_of_the_dense_hessian(
    operator: str, product: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    inner, shape = OPERATORS[operator]

    def func(x: Tensor) -> Tensor:
        # The sine and the weights make every second derivative of the operator count, and differently.
        values = inner(x).reshape(-1)
        return (torch.arange(1.0, values.numel() + 1, dtype=DOUBLE) * values.sin()).sum()

    x, v = torch.randn(shape, dtype=DOUBLE), torch.randn(shape, dtype=DOUBLE)
    (expected,) = dense_product(func, (x,), (v,))
    output, actual = product(func, x, v)
    assert expected.abs().max() > 1e-3
    assert_values(output, func(x))
    assert_values(actual, expected, rtol=1e-6, atol=1e-7)


def test_what_saved_tensors_hooks_unpack_is_what_the_product_uses() -> None:
    def func(x: Tensor) -> Tensor:
        with saved_tensors_hooks(lambda saved: saved.detach(), lambda packed: 2 * packed):
            return x.sin().sum()

    x, v = torch.rand(3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)
    # The hooks make the gradient cos(2x); it is computed outside of them, so its derivative is -sin(2x).
    torch.testing.assert_close(hesse.vhp(func, x, v)[1], -(2 * x).sin() * v)


def test_vander_that_has_no_gradient_raises_as_its_gradient_does() -> None:
    """PyTorch writes torch.vander in place over what its gradient needs; torch.linalg.vander is the remedy."""

    def func(x: Tensor) -> Tensor:
        return torch.vander(x).sin().sum()

    x = torch.rand(4, dtype=DOUBLE)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(func(x.requires_grad_()), x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        hesse.vhp(func, x, torch.ones_like(x))
