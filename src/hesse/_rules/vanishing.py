r"""Norms that vanish inside of smooth functions: :math:`r = \lVert x \rVert` at zero, where r itself has a kink.

The gradient of a cotangent :math:`g` of r by x is :math:`(g / r) x`. A function of r that is smooth in x has
:math:`g = 0` where :math:`r = 0`, and :math:`g / r` tends to :math:`q = \partial g / \partial r`. PyTorch takes zero
for the quotient there, so that the second derivative, which is q, becomes zero or no number. Here the quotient is q,
which autograd knows where the gradient is to be differentiated: g has a history back to r.

Where g is not zero, or changes with another norm that is zero, the function has a kink, and derivatives are PyTorch's:
zero, or no number. Fourth derivatives by x at zero are wrong: g / r has a third of the curvature of q there. Where
zeros cannot be seen, and inside of ``torch.func.grad``, which frees the history of g, derivatives are PyTorch's too.
Programs have PyTorch's derivatives, and look for zeros at each point (``unseen.py``).

Source: elementary, by l'Hôpital's rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from hesse._rules import rectified_norms
from hesse._rules.batches import have_values, samples
from hesse._rules.rule import intercept_both
from hesse._rules.scope import differentiated_once_more, take_apart, within_transform
from hesse._rules.unseen import watch_zeros


def is_differentiated(*arguments: Tensor) -> bool:
    """Whether a norm of these is differentiated."""
    if (
        not torch.is_grad_enabled()
        or within_transform()
        or not any([samples(entry).requires_grad for entry in arguments])
    ):
        return False
    # Norms of nothing are zero, and constant.
    return all([entry.layout is torch.strided and not entry.is_nested and entry.numel() > 0 for entry in arguments])


def followed(
    norm: Tensor,
    replacement: Callable[[], Tensor],
    *arguments: Tensor,
    zero: Callable[[], Tensor] | None = None,
) -> Tensor:
    """The norm of these, or its ``replacement`` where some are zero.

    ``zero`` says which, where rounding of the norm itself does not tell.
    """
    if not is_differentiated(*arguments):
        return norm
    if not have_values(norm, *arguments):
        return watch_zeros(norm, zero)
    values = samples(norm)
    return replacement() if int(torch.count_nonzero(values)) < values.numel() else norm


def norm_of(x: Tensor, dims: Sequence[int], kink: float = 0.0) -> Tensor:
    """The norms of x over ``dims``, which are kept; ``kink`` is 0 or NaN, the second derivative at a kink."""
    rectified_norms.install()
    function: Any = LinalgVectorNorm if dims else Abs
    norm: Tensor = function.apply(x, tuple(dims), kink)
    # The function keeps its result, which others may change in place.
    return norm.clone()


class LinalgVectorNorm(torch.autograd.Function):
    """The norm; its node has the name of PyTorch's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dims: tuple[int, ...], kink: float) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(x, 2, dims, keepdim=True) if dims else x.abs()
        return norm

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.dims, ctx.kink = inputs
        ctx.save_for_backward(x, output)
        ctx.save_for_forward(x, output)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        x, norm = ctx.saved_tensors
        zero = norm == 0
        # Of a single number the quotient is a sign, whose derivative is zero to all digits.
        is_sign = not (ctx.dims or x.is_complex())
        direction = x.sgn() if is_sign else torch.where(zero, 0, x) / torch.where(zero, 1, norm)
        gradient = cotangent * direction
        if torch.is_grad_enabled():
            smooth = zero & (cotangent == 0)
            slope, alone = _derivative(torch.where(smooth, cotangent, 0), norm)
            smooth = smooth & alone
            gradient = torch.where(smooth, slope * x, gradient)
            if math.isnan(ctx.kink):
                # Zero, with a derivative that is no number, as in PyTorch's formula.
                kinked = zero & ~smooth
                infinite = torch.where(kinked, cotangent, 0) / torch.where(kinked, norm, 1)
                gradient = gradient + infinite.masked_fill(kinked, 0) * x
        return gradient, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        x, norm = ctx.saved_tensors
        along = (x.conj() * tangent).real if x.is_complex() else x * tangent
        zero = norm == 0
        total = along.sum(ctx.dims, keepdim=True) if ctx.dims else along
        return torch.where(zero, 0, total) / torch.where(zero, 1, norm)


class Abs(LinalgVectorNorm):
    """The modulus of each number."""


def _derivative(cotangent: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """∂cotangent/∂norm by entries, and where this is known.

    It is not where nothing connects them, or where a graph that is freed on the way did. Nor where a cotangent changes
    with another norm that is zero: products of norms have kinks where both vanish.
    """
    if torch._C._functorch.is_batchedtensor(norm):
        # Samples are independent: the derivative is that of all together.
        level, dim = torch._C._functorch.maybe_get_level(norm), torch._C._functorch.maybe_get_bdim(norm)
        inner = _derivative(*[torch._C._functorch.get_unwrapped(entry) for entry in (cotangent, norm)])
        found = [torch._C._functorch._add_batch_dim(entry, dim, level) for entry in inner]
        return found[0], found[1]
    unknown = torch.zeros_like(norm), torch.zeros_like(norm, dtype=torch.bool)
    if not cotangent.requires_grad:
        return unknown

    def along(weights: Tensor, follow: bool) -> Tensor | None:
        return torch.autograd.grad(cotangent, norm, weights, retain_graph=True, create_graph=follow, allow_unused=True)[
            0
        ]

    try:
        slope = along(torch.ones_like(norm), not differentiated_once_more())
        if slope is None:
            return unknown
        if norm.numel() == 1:
            return slope, torch.ones_like(norm, dtype=torch.bool)
        # A matrix that is not diagonal multiplies two vectors by different factors.
        weights = torch.linspace(0, 1, norm.numel(), dtype=norm.dtype, device=norm.device).exp().reshape(norm.shape)
        others = (cast(Tensor, along(weights, False)) - weights * slope).abs()
    except RuntimeError as error:
        # torch.func.grad frees its graph though it creates one.
        if "backward through the graph a second time" not in str(error):
            raise
        return unknown
    return slope, others <= math.sqrt(torch.finfo(norm.dtype).eps) * slope.abs().amax()


def _vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    operator: Any = torch.ops.aten.linalg_vector_norm.default
    norm: Tensor = operator(x, ord, dim, keepdim, dtype=dtype)
    return followed(norm, lambda: _replaced(norm, x, dim, math.nan), x) if ord == 2 and dtype is None else norm


def _norm(x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Tensor:
    aten: Any = torch.ops.aten
    norm: Tensor = aten.norm.Scalar(x, p) if dim is None else aten.norm.ScalarOpt_dim(x, p, dim, keepdim)
    return followed(norm, lambda: _replaced(norm, x, dim, math.nan), x) if p is None or p == 2 else norm


def _replaced(norm: Tensor, x: Tensor, dim: Any, kink: float) -> Tensor:
    """The same norms by :func:`norm_of`, in the same shape."""
    return norm_of(x, _dims(x, dim), kink).reshape(norm.shape)


def _dims(x: Tensor, dim: Any) -> list[int]:
    if dim is None or (not isinstance(dim, int) and not len(dim)):
        return list(range(x.dim()))
    return [dim] if isinstance(dim, int) else list(dim)


def _std(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Tensor:
    operator: Any = torch.ops.aten.std.correction
    return _followed_std(operator(x, dim, correction=correction, keepdim=keepdim), x, dim, correction, keepdim)


def _std_mean(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    operator: Any = torch.ops.aten.std_mean.correction
    deviation, mean = operator(x, dim, correction=correction, keepdim=keepdim)
    return _followed_std(deviation, x, dim, correction, keepdim), mean


def _followed_std(deviation: Tensor, x: Tensor, dim: Any, correction: Any, keepdim: bool) -> Tensor:
    dims = _dims(x, dim)
    count = math.prod([x.shape[i] for i in dims]) - (1 if correction is None else correction)
    if count <= 0:
        return deviation

    def replacement() -> Tensor:
        centered = x - x.mean(dims, keepdim=True)
        # Without the rounding of the mean.
        even = torch.ops.aten.std.correction(x, dims, correction=correction, keepdim=True) == 0
        centered = torch.where(even, centered - centered.detach(), centered)
        return _replaced(deviation, centered, dims, 0.0) / math.sqrt(count)

    def zero() -> Tensor:
        parts = torch.view_as_real(x.detach().resolve_conj()).unbind(-1) if x.is_complex() else (x.detach(),)
        even = [part.amax(dims, keepdim=keepdim) == part.amin(dims, keepdim=keepdim) for part in parts]
        return even[0] & even[-1]

    return followed(deviation, replacement, x, zero=zero)


def _dist(x: Tensor, y: Tensor, p: Any = 2) -> Tensor:
    distance: Tensor = torch.ops.aten.dist.default(x, y, p)
    return followed(distance, lambda: _replaced(distance, x - y, None, math.nan), x, y) if p == 2 else distance


def _abs(x: Tensor) -> Tensor:
    return followed(torch.ops.aten.abs.default(x), lambda: norm_of(x, ()), x)


def _hypot(x: Tensor, y: Tensor) -> Tensor:
    length: Tensor = torch.ops.aten.hypot.default(x, y)

    def replacement() -> Tensor:
        both = torch.stack((x.expand(length.shape), y.expand(length.shape)))
        return norm_of(both, (0,), math.nan).squeeze(0)

    return followed(length, replacement, x, y)


for _name in (
    *("std", "std.dim", "std_mean", "std_mean.dim", "cdist", "pdist"),
    *("linalg_norm", "linalg_norm.ord_str", "linalg_matrix_norm", "linalg_matrix_norm.str_ord"),
    *("absolute", "l1_loss", "pairwise_distance"),
):
    take_apart(f"aten::{_name}")

for _name, _kernel in (
    ("aten::linalg_vector_norm", _vector_norm),
    ("aten::norm.Scalar", _norm),
    ("aten::norm.ScalarOpt_dim", _norm),
    ("aten::std.correction", _std),
    ("aten::std_mean.correction", _std_mean),
    ("aten::dist", _dist),
    ("aten::abs", _abs),
    ("aten::hypot", _hypot),
):
    intercept_both(_name, _kernel)
