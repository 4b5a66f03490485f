r"""Decompositions at points where their derivatives do not exist but for rounding: no number in place of a wrong one.

Derivatives of eigenvectors divide by differences :math:`\lambda_i - \lambda_j`, those of singular vectors by
:math:`\sigma_i^2 - \sigma_j^2`, those of QR and LU by the diagonal of a triangle. Where a divisor is zero PyTorch's
second derivatives are no number. Computed values are rarely equal to the last bit, and the quotient of two rounding
errors is a finite number of any size. Here second derivatives are no number there either.

A function of singular values alone, with the gradient g by them, has the gradient :math:`U \mathrm{diag}(g) V^H`. Its
derivative along D, with :math:`P = U^H D V`, multiplies the Hermitian part of P by :math:`(g_i - g_j) / (\sigma_i -
\sigma_j)` and the other part by :math:`(g_i + g_j) / (\sigma_i + \sigma_j)`. A quotient of rounding errors does not
matter where P is zero. Of eigenvalues it is the same with U = V, and the first quotient for both parts.

Source: https://people.maths.ox.ac.uk/gilesm/files/NA-08-01.pdf for the divisors; the rest is elementary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hesse._base.forward_mode import is_on
from hesse._rules.batches import has_values, samples
from hesse._rules.scope import differentiated_once_more, intercept, operator_of, within_transform

# Units in the last place of the largest value: computed values that are equal differ by a few.
_ULPS = 32

Factors = Sequence[Tensor]
Spectral = tuple[Tensor, Tensor, Tensor, Tensor]
"""Left and right vectors, and the quotients for the two parts of a direction, NaN where they are unknown."""


def _rounding(size: Tensor) -> Tensor:
    return size * (_ULPS * torch.finfo(size.dtype).eps)


def _any(pairs: Tensor) -> Tensor:
    return pairs.any(-1).any(-1)


def _differences(values: Tensor) -> Tensor:
    return values.unsqueeze(-1) - values.unsqueeze(-2)


def _either(chosen: Tensor) -> Tensor:
    return chosen.unsqueeze(-1) | chosen.unsqueeze(-2)


def _larger(sizes: Tensor) -> Tensor:
    return torch.maximum(sizes.unsqueeze(-1), sizes.unsqueeze(-2))


def _equal(values: Tensor) -> tuple[Tensor, Tensor]:
    """Which pairs are equal but for rounding, and which are both zero but for that of the largest; not the diagonal."""
    sizes = values.abs()
    larger = _larger(sizes)
    others = ~torch.eye(values.shape[-1], dtype=torch.bool, device=values.device)
    equal = _differences(values).abs() <= _rounding(larger)
    return equal & others, (larger <= _rounding(sizes.amax(-1)[..., None, None])) & others


def _are_zero(values: Tensor) -> Tensor:
    return values <= _rounding(values.amax(-1, keepdim=True))


def _of_values(values: Tensor, gradient: Tensor, used: Tensor) -> Tensor:
    """Which pairs of values have a quotient of rounding errors, for a gradient by them, and the values in use.

    Of values that are zero but for rounding, quotients are right where the gradient is in proportion to them.
    """
    equal, zero = _equal(values)
    one, other = gradient.unsqueeze(-1) * values.unsqueeze(-2), gradient.unsqueeze(-2) * values.unsqueeze(-1)
    like = (one != 0) & ((one - other).abs() <= one.abs() * math.sqrt(torch.finfo(one.dtype).eps))
    return _either(used) & (equal | zero & ~like)


def _quotients(values: Tensor, gradient: Tensor, used: Tensor) -> Tensor:
    divisors = torch.where(_of_values(values, gradient, used), torch.nan, _differences(values))
    # Gradients by values that are not used are zero, and on the diagonal are differences with itself.
    return _differences(gradient) / torch.where(divisors == 0, 1, divisors)


def _quotients_of_sums(values: Tensor, gradient: Tensor, used: Tensor) -> Tensor:
    # A smooth function is even in each singular value, and its gradient is zero with that value.
    scale = gradient.abs().amax(-1, keepdim=True) / values.amax(-1, keepdim=True)
    steep = used & ~(gradient.abs() <= scale / math.sqrt(torch.finfo(values.dtype).eps) * values)
    zero = _are_zero(values)
    divisors = values.unsqueeze(-1) + values.unsqueeze(-2)
    unknown = zero.unsqueeze(-1) & zero.unsqueeze(-2) & (_either(steep) | (divisors == 0) & _either(used))
    divisors = torch.where(unknown, torch.nan, divisors)
    return (gradient.unsqueeze(-1) + gradient.unsqueeze(-2)) / torch.where(divisors == 0, 1, divisors)


def _used(values: Tensor, gradient: Tensor) -> Tensor:
    """Which values a function uses: a gradient that is zero by chance, as where a function is least, changes."""
    used = gradient != 0
    if not gradient.requires_grad:
        return used
    weights = torch.linspace(0, 1, values.shape[-1], dtype=values.dtype, device=values.device).exp()
    (change,) = torch.autograd.grad(gradient, values, weights.expand_as(values), retain_graph=True, allow_unused=True)
    return used if change is None else torch.logical_or(used, change != 0)


@dataclass(frozen=True)
class _Kind:
    """A decomposition: which divisors of its derivatives are zero but for rounding, and when that matters."""

    close: Callable[..., Tensor]
    """From the matrix and its factors: a matrix of truth values, or one for each divisor."""
    are_rounding: Callable[[Tensor, Factors, Factors], tuple[Tensor, Tensor]]
    """From what is close, the factors and their cotangents: for each matrix, whether quotients are of rounding errors.

    The first are those of its second derivative, the others those of its first as well, as for vectors of equal values.
    """
    values: int = 0
    spectral: Callable[[Factors, Tensor, Tensor], Spectral] | None = None
    """From the factors, a gradient by the values alone, and which of them are used."""


class _Marked(torch.autograd.Function):
    """The factors, whose gradient by the matrix has a derivative that is no number where a divisor is rounding."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, close: Tensor, kind: tuple[_Kind, type], *factors: Tensor) -> tuple[Tensor, ...]:
        return tuple([factor.clone() for factor in factors])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        matrix, close, (ctx.kind, ctx.of_values) = inputs[:3]
        ctx.save_for_backward(matrix, close, *output)
        # What is not used stays so: PyTorch's derivative by vectors would divide zeros.
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        matrix, close, *factors = ctx.saved_tensors
        kind, is_multiplied = ctx.kind, torch.is_grad_enabled()
        of_values, *others = cotangents[kind.values :] + cotangents[: kind.values]
        are_alone = kind.spectral is not None and not any([entry is not None for entry in others])
        if are_alone and of_values is not None and is_multiplied and differentiated_once_more():
            used = _used(factors[kind.values], of_values)
            with torch.no_grad():
                spectral = kind.spectral(factors, of_values, used)
            return _apply(ctx.of_values, matrix, of_values, *spectral), None, None, *[None] * len(cotangents)
        with torch.no_grad():
            entries = zip(factors, cotangents, strict=True)
            found = [torch.zeros_like(factor) if entry is None else entry for factor, entry in entries]
            second, first = kind.are_rounding(close, factors, found)
        gradient = torch.where(first[..., None, None], torch.nan, torch.zeros_like(matrix))
        if is_multiplied:
            gradient = gradient + _zero(matrix, first | second, 0.5)[..., None, None]
        return gradient, None, None, *cotangents


class _OfValues(torch.autograd.Function):
    """The gradient of a function of values alone, to be differentiated once more."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, of_values: Tensor, u: Tensor, v: Tensor, *quotients: Tensor) -> Tensor:
        return (u * of_values.unsqueeze(-2)) @ v.mH

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        u, v, *_ = ctx.saved_tensors
        of_values = (u.conj() * (cotangent @ v)).sum(-2)
        along = _apply(_Along, cotangent, *ctx.saved_tensors)
        return along, of_values.real if of_values.is_complex() else of_values, None, None, None, None


class _Along(torch.autograd.Function):
    """The derivative of that gradient along a direction, for a constant gradient by values; its own transpose."""

    generate_vmap_rule = True

    @staticmethod
    def forward(direction: Tensor, u: Tensor, v: Tensor, of_differences: Tensor, of_sums: Tensor) -> Tensor:
        rounding = _rounding(torch.linalg.matrix_norm(direction))[..., None, None]

        def times(part: Tensor, sizes: Tensor, quotients: Tensor) -> Tensor:
            return torch.where(quotients.isnan() & (sizes <= rounding), 0, part * quotients)

        right, left = direction @ v, direction.mH @ u
        between = u.mH @ right
        even, odd = (between + between.mH) / 2, (between - between.mH) / 2
        along = u @ (times(even, even.abs(), of_differences) + times(odd, odd.abs(), of_sums)) @ v.mH
        if direction.shape[-1] == direction.shape[-2]:
            return along
        # Singular vectors of another space belong to the value zero.
        of_zeros = of_sums.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
        right, left = right - u @ between, left - v @ between.mH
        right = times(right, torch.linalg.vector_norm(right, dim=-2, keepdim=True), of_zeros)
        left = times(left, torch.linalg.vector_norm(left, dim=-2, keepdim=True), of_zeros)
        return along + right @ v.mH + u @ left.mH

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        return _apply(_Along, cotangent, *ctx.saved_tensors), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _Along.forward(tangent, *ctx.saved_tensors)


def _apply(function: Any, *arguments: Any) -> Any:
    return function.apply(*arguments)


def _zero(matrix: Tensor, chosen: Tensor, power: float) -> Tensor:
    """The number zero, whose first derivative that is no power of zero is no number, for matrices that are chosen."""
    parts = matrix.real.sum((-2, -1)) + matrix.imag.sum((-2, -1)) if matrix.is_complex() else matrix.sum((-2, -1))
    one = torch.where(chosen, 0.0, 1.0).to(parts.dtype)
    return (0 * parts + one) ** power - one


def _close_eigenvalues(matrix: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
    return torch.logical_or(*_equal(values))


def _of_eigh(close: Tensor, factors: Factors, cotangents: Factors) -> tuple[Tensor, Tensor]:
    of_values = _any(_of_values(factors[0], cotangents[0], cotangents[0] != 0))
    if not factors[1].numel():
        return of_values, torch.zeros_like(of_values)
    # The gradient by vectors divides the antisymmetric part of this.
    product = factors[1].mH @ cotangents[1]
    sizes = torch.linalg.vector_norm(cotangents[1], dim=-2)
    largest = _larger(sizes)
    rounding = close & ((product - product.mH).abs() <= _rounding(largest))
    # Where vectors are used, a second derivative divides what becomes of the other columns, too.
    return of_values | _any(rounding) & (sizes.amax(-1) > 0), _any(rounding & (largest > 0))


def _spectral_of_eigh(factors: Factors, gradient: Tensor, used: Tensor) -> Spectral:
    values, vectors = factors
    quotients = _quotients(values, gradient, used)
    return vectors, vectors, quotients, quotients


def _of_eig(close: Tensor, factors: Factors, cotangents: Factors) -> tuple[Tensor, Tensor]:
    return _any(_of_values(factors[0], cotangents[0], cotangents[0] != 0)), _any(close) & _any(cotangents[1] != 0)


def _close_singular_values(matrix: Tensor, u: Tensor, values: Tensor, vh: Tensor) -> Tensor:
    close = torch.logical_or(*_equal(values))
    if matrix.shape[-1] == matrix.shape[-2] and not matrix.is_complex():
        return close
    # Singular vectors of another space belong to the value zero, and phases of its vectors turn by themselves.
    return close | torch.diag_embed(_are_zero(values))


def _of_svd(close: Tensor, factors: Factors, cotangents: Factors) -> tuple[Tensor, Tensor]:
    (u, values, _), (of_u, of_values, of_vh) = factors, cotangents
    given = values, of_values, of_values != 0
    unknown = close & (_quotients(*given).isnan() | _quotients_of_sums(*given).isnan())
    k = values.shape[-1] if u.numel() else 0
    used = (of_u[..., :k] != 0).any(-2) | (of_vh[..., :k, :] != 0).any(-1)
    if not k:
        return _any(unknown), torch.zeros_like(_any(unknown))
    # As for eigenvectors.
    return _any(unknown) | _any(close) & used.any(-1), _any(close & _either(used))


def _spectral_of_svd(factors: Factors, gradient: Tensor, used: Tensor) -> Spectral:
    u, values, vh = factors
    k = values.shape[-1]
    v = vh[..., :k, :].mH
    return u[..., :k], v, _quotients(values, gradient, used), _quotients_of_sums(values, gradient, used)


def _close_triangle(matrix: Tensor, *factors: Tensor) -> Tensor:
    sizes = factors[-1].diagonal(dim1=-2, dim2=-1).abs()
    return _are_zero(sizes)


def _of_triangle(close: Tensor, factors: Factors, cotangents: Factors) -> tuple[Tensor, Tensor]:
    chosen = close.any(-1)
    return chosen, torch.zeros_like(chosen)


def _install(name: str, kind: _Kind) -> None:
    operator = operator_of(name)
    if operator is None:
        return
    # Nodes have the names of PyTorch's.
    node = "".join([word.capitalize() for word in name.removeprefix("aten::").split("_")])
    marked, of_values = type(node, (_Marked,), {}), type(node, (_OfValues,), {})

    def decomposed(matrix: Tensor, *args: Any, **kwargs: Any) -> Any:
        factors = operator(matrix, *args, **kwargs)
        in_operations = within_transform() or is_on()
        is_differentiated = in_operations or (torch.is_grad_enabled() and samples(matrix).requires_grad)
        if not is_differentiated or not matrix.numel():
            return factors
        with torch.no_grad():
            found = kind.close(matrix, *factors)
        if has_values(found) and not bool(found.any()):
            return factors
        if not in_operations:
            return _apply(marked, matrix, found, (kind, of_values), *factors)
        zero = _zero(matrix, found.flatten(matrix.dim() - 2).any(-1), 1.5)
        # Custom functions are none that a transform sees here, and which factors are used it does not tell.
        return tuple([factor + zero.reshape(zero.shape + (1,) * (factor.dim() - zero.dim())) for factor in factors])

    intercept(name, decomposed)


_install("aten::_linalg_eigh", _Kind(_close_eigenvalues, _of_eigh, 0, _spectral_of_eigh))
_install("aten::linalg_eig", _Kind(_close_eigenvalues, _of_eig))
_install("aten::_linalg_svd", _Kind(_close_singular_values, _of_svd, 1, _spectral_of_svd))
_install("aten::linalg_qr", _Kind(_close_triangle, _of_triangle))
_install("aten::linalg_lu", _Kind(_close_triangle, _of_triangle))
