r"""Decompositions at points where their derivatives do not exist but for rounding: no number in place of a wrong one.

Derivatives of eigenvectors divide by differences :math:`\lambda_i - \lambda_j`, those of singular vectors by
:math:`\sigma_i^2 - \sigma_j^2`, those of QR and LU by the diagonal of a triangle. Where a divisor is zero PyTorch's
second derivatives are no number. Computed values are rarely equal to the last bit, and the quotient of two rounding
errors is a finite number of any size. Here second derivatives are no number there either.

A function of eigenvalues alone has the quotients :math:`(g_i - g_j) / (\lambda_i - \lambda_j)` of its gradient g. They
are right as long as the differences in g are more than rounding, as those of the logarithms of small eigenvalues.

Source: https://people.maths.ox.ac.uk/gilesm/files/NA-08-01.pdf for the divisors; the rest is elementary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._base.forward_mode import is_on
from hesse._rules.batches import has_values, samples
from hesse._rules.scope import intercept, operator_of, within_transform

# Units in the last place of the largest value: computed values that are equal differ by a few.
_ULPS = 32

Close = Callable[..., Tensor]
"""From the matrix and its factors, which divisors are zero but for rounding: a matrix of truth values, or one each."""


def _equal(values: Tensor) -> Tensor:
    """Which pairs are equal but for rounding, or both zero but for that of the largest; not those of the diagonal."""
    sizes = values.abs()
    larger = torch.maximum(sizes.unsqueeze(-1), sizes.unsqueeze(-2))
    differences = (values.unsqueeze(-1) - values.unsqueeze(-2)).abs()
    close = (differences <= _rounding(larger)) | (larger <= _rounding(sizes.amax(-1)[..., None, None]))
    return close & ~torch.eye(values.shape[-1], dtype=torch.bool, device=values.device)


def _rounding(size: Tensor) -> Tensor:
    return size * (_ULPS * torch.finfo(size.dtype).eps)


def _of_eigenvalues(matrix: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
    return _equal(values)


def _of_singular_values(matrix: Tensor, u: Tensor, values: Tensor, vh: Tensor) -> Tensor:
    close = _equal(values)
    if matrix.shape[-1] == matrix.shape[-2]:
        return close
    # Singular vectors of another space belong to the value zero.
    return close | torch.diag_embed(values <= _rounding(values.amax(-1, keepdim=True)))


def _of_triangle(matrix: Tensor, *factors: Tensor) -> Tensor:
    sizes = factors[-1].diagonal(dim1=-2, dim2=-1).abs()
    return sizes <= _rounding(sizes.amax(-1, keepdim=True))


AreRounding = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, Tensor, Tensor | None]]
"""From what is close, the factors and their cotangents: for each matrix, whether quotients are of rounding errors.

The first are those of its second derivative, the others those of its first as well, as for vectors of equal values. The
last are pairs of values whose quotient matters only along directions that have a part between their vectors.
"""


class _Marked(torch.autograd.Function):
    """The factors, whose gradient by the matrix has a derivative that is no number where a divisor is rounding."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, close: Tensor, kind: tuple[AreRounding, type], *factors: Tensor) -> tuple[Tensor, ...]:
        return tuple([factor.clone() for factor in factors])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        matrix, close, (ctx.are_rounding, ctx.zero) = inputs[:3]
        ctx.save_for_backward(matrix, close, *output)
        # What is not used stays so: PyTorch's derivative by vectors would divide zeros.
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        matrix, close, *factors = ctx.saved_tensors
        with torch.no_grad():
            entries = zip(factors, cotangents, strict=True)
            found = [torch.zeros_like(factor) if entry is None else entry for factor, entry in entries]
            second, first, pairs = ctx.are_rounding(close, factors, found)
        gradient = torch.where(first[..., None, None], torch.nan, torch.zeros_like(matrix))
        if torch.is_grad_enabled():
            between = () if pairs is None else (pairs, factors[1].detach())
            gradient = gradient + _apply(ctx.zero, matrix, first | second, *between)
        return gradient, None, None, *cotangents


class _Zero(torch.autograd.Function):
    """Zeros like a matrix, whose derivative is no number for those that are chosen, and zero for others.

    Of ``pairs`` of eigenvalues, it is no number along directions with a part between their vectors.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, chosen: Tensor, *pairs_and_vectors: Tensor) -> Tensor:
        return torch.zeros_like(matrix)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        return _apply(_Direction, cotangent, *ctx.saved_tensors), *[None] * len(ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _unless_chosen(tangent, *ctx.saved_tensors)


class _Direction(torch.autograd.Function):
    """What :class:`_Zero` has along a direction; linear, and its own transpose."""

    generate_vmap_rule = True

    @staticmethod
    def forward(direction: Tensor, chosen: Tensor, *pairs_and_vectors: Tensor) -> Tensor:
        return _unless_chosen(direction, chosen, *pairs_and_vectors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        return _apply(_Direction, cotangent, *ctx.saved_tensors), *[None] * len(ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _unless_chosen(tangent, *ctx.saved_tensors)


def _unless_chosen(direction: Tensor, chosen: Tensor, *pairs_and_vectors: Tensor) -> Tensor:
    if pairs_and_vectors:
        pairs, vectors = pairs_and_vectors
        with torch.no_grad():
            between = (vectors.mH @ direction @ vectors).abs()
            size = torch.linalg.matrix_norm(direction)[..., None, None]
            touched = torch.maximum(between, between.mT) > _rounding(size)
            chosen = chosen | (pairs & touched).any(-1).any(-1)
    return torch.where(chosen[..., None, None], torch.nan, 0) * direction


def _apply(function: Any, *arguments: Any) -> Any:
    return function.apply(*arguments)


def _of_triangles(
    close: Tensor, factors: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> tuple[Tensor, Tensor, None]:
    chosen = close.any(-1)
    return chosen, torch.zeros_like(chosen), None


def _of_values(close: Tensor, values: Tensor) -> Tensor:
    """Which pairs of a gradient by values differ by rounding alone."""
    sizes = values.abs()
    largest = torch.maximum(sizes.unsqueeze(-1), sizes.unsqueeze(-2))
    differences = (values.unsqueeze(-1) - values.unsqueeze(-2)).abs()
    return close & (largest > 0) & (differences <= _rounding(largest))


def _of_eigh(
    close: Tensor, factors: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    of_values = _of_values(close, cotangents[0])
    if not factors[1].numel():
        of_values = of_values.any(-1).any(-1)
        return of_values, torch.zeros_like(of_values), None
    # The gradient by vectors divides the antisymmetric part of this.
    product = factors[1].mH @ cotangents[1]
    sizes = torch.linalg.vector_norm(cotangents[1], dim=-2)
    largest = torch.maximum(sizes.unsqueeze(-1), sizes.unsqueeze(-2))
    rounding = close & ((product - product.mH).abs() <= _rounding(largest))
    # Where vectors are used, a second derivative divides what becomes of the other columns, too.
    second = (rounding | of_values).any(-1).any(-1) & (sizes.amax(-1) > 0)
    return second, (rounding & (largest > 0)).any(-1).any(-1), of_values


def _of_vectors(close: Tensor, factors: Sequence[Tensor], cotangents: Sequence[Tensor]) -> tuple[Tensor, Tensor, None]:
    values = next(place for place, factor in enumerate(factors) if factor.dim() < close.dim())
    some = close.any(-1).any(-1)
    used = torch.zeros_like(some)
    for place, cotangent in enumerate(cotangents):
        if place != values and cotangent.numel():
            used = used | (cotangent != 0).any(-1).any(-1)
    return _of_values(close, cotangents[values]).any(-1).any(-1), some & used, None


def _zero(matrix: Tensor, chosen: Tensor) -> Tensor:
    """The number zero, whose gradient is zero and has a derivative that is no number, for matrices that are chosen."""
    parts = matrix.real.sum((-2, -1)) + matrix.imag.sum((-2, -1)) if matrix.is_complex() else matrix.sum((-2, -1))
    one = torch.where(chosen, 0.0, 1.0).to(parts.dtype)
    return (0 * parts + one) ** 1.5 - one


def _install(name: str, close: Close, are_rounding: AreRounding) -> None:
    operator = operator_of(name)
    if operator is None:
        return
    # Nodes have the names of PyTorch's.
    node = "".join([word.capitalize() for word in name.removeprefix("aten::").split("_")])
    marked, zero_of = type(node, (_Marked,), {}), type(node, (_Zero,), {})

    def decomposed(matrix: Tensor, *args: Any, **kwargs: Any) -> Any:
        factors = operator(matrix, *args, **kwargs)
        in_operations = within_transform() or is_on()
        is_differentiated = in_operations or (torch.is_grad_enabled() and samples(matrix).requires_grad)
        if not is_differentiated or not matrix.numel():
            return factors
        with torch.no_grad():
            found = close(matrix, *factors)
        if has_values(found) and not bool(found.any()):
            return factors
        if not in_operations:
            return _apply(marked, matrix, found, (are_rounding, zero_of), *factors)
        zero = _zero(matrix, found.flatten(matrix.dim() - 2).any(-1))
        # Custom functions are none that a transform sees here, and which factors are used it does not tell.
        return tuple([factor + zero.reshape(zero.shape + (1,) * (factor.dim() - zero.dim())) for factor in factors])

    intercept(name, decomposed)


_install("aten::_linalg_eigh", _of_eigenvalues, _of_eigh)
_install("aten::linalg_eig", _of_eigenvalues, _of_vectors)
_install("aten::_linalg_svd", _of_singular_values, _of_vectors)
_install("aten::linalg_qr", _of_triangle, _of_triangles)
_install("aten::linalg_lu", _of_triangle, _of_triangles)
