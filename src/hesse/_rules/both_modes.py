r"""Operators whose forward-mode derivative has a wrong derivative by reverse mode, without a word.

PyTorch's formulas of forward mode take statistics and factorizations that the forward returns for constants. So the
gradient of ``torch.func.jvp`` or ``jacfwd`` through a normalization, a solve or a determinant is wrong. Here, while
forward mode is on, the result is computed in operations whose formulas are right in both modes: a normalization from
its means, solves and determinants from a factorization :math:`P L U` that is differentiated itself. So are losses whose
gradients have no tangent in PyTorch. Products over a dimension are multiplied in pairs: PyTorch divides by the factors,
and what it puts in place of quotients by zero has derivatives that are no numbers, or wrong.

Source: torch/csrc/autograd/FunctionsManual.cpp; the formulas are elementary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._base.forward_mode import is_on
from hesse._rules.rule import intercept_both
from hesse._rules.scope import intercept, operator_of, take_apart

Outputs = tuple[Any, ...]


def _in_both_modes(name: str, rewrite: Callable[..., Outputs | Tensor]) -> None:
    """While forward mode is on, the first results of the operator are those of ``rewrite``, which takes them last."""
    operator: Any = operator_of(name)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        results = operator(*args, **kwargs)
        if not is_on():
            return results
        found = rewrite(*args, **kwargs, results=results)
        if isinstance(found, Tensor):
            return found
        return (*found, *results[len(found) :])

    intercept(name, kernel)


def _written_out(name: str, rewrite: Callable[..., Tensor]) -> None:
    """While forward mode is on, ``rewrite`` stands in for the operator."""
    operator: Any = operator_of(name)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        return rewrite(*args, **kwargs) if is_on() else operator(*args, **kwargs)

    intercept_both(name, kernel)


def _normalized(x: Tensor, dims: list[int], eps: float) -> Tensor:
    centered = x - x.mean(dims, keepdim=True)
    normalized: Tensor = centered * (centered.square().mean(dims, keepdim=True) + eps).rsqrt()
    return normalized


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float, *, results: Outputs
) -> Outputs:
    wide = results[1].dtype  # statistics of 16 bits are in single precision
    y = _normalized(x.to(wide), list(range(x.dim() - len(shape), x.dim())), eps)
    return (_affine(y, weight, bias).to(x.dtype),)


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any, results: Outputs) -> Outputs:
    """``rest`` has running statistics, whether they are this batch's, the momentum and epsilon."""
    *_, training, _, eps = rest
    if not training:
        return ()
    shape = [1, -1, *[1] * (x.dim() - 2)]
    y = _normalized(x.to(results[1].dtype), [0, *range(2, x.dim())], eps)
    scale, shift = [entry if entry is None else entry.reshape(shape) for entry in (weight, bias)]
    return (_affine(y, scale, shift).to(x.dtype),)


def _solve(a: Tensor, b: Tensor, *, left: bool = True, check_errors: bool = False, results: Outputs) -> Outputs:
    factor, pivots, _ = torch.linalg.lu_factor_ex(a)
    is_vector = b.dim() == 1 or (b.dim() == a.dim() - 1 and b.shape == a.shape[:-1])
    columns = b.unsqueeze(-1) if is_vector else b
    x = torch.linalg.lu_solve(factor, pivots, columns, left=left or is_vector)
    return (x.squeeze(-1) if is_vector else x,)


def _slogdet(a: Tensor, *, results: Outputs) -> Outputs:
    factor, pivots, _ = torch.linalg.lu_factor_ex(a)
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    swaps = (pivots != torch.arange(1, a.shape[-1] + 1, dtype=pivots.dtype, device=pivots.device)).sum(-1)
    return (1 - 2 * (swaps % 2)).to(a.dtype) * diagonal.sgn().prod(-1), diagonal.abs().log().sum(-1)


def _cholesky_inverse(factor: Tensor, upper: bool = False, *, results: Tensor) -> Tensor:
    """PyTorch's own tangent is wrong as well."""
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand(factor.shape)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=upper)
    product: Tensor = inverse @ inverse.mH if upper else inverse.mH @ inverse
    return product


def _householder_product(vectors: Tensor, scales: Tensor, *, results: Tensor) -> Tensor:
    rows, columns = vectors.shape[-2:]
    product = torch.eye(rows, columns, dtype=vectors.dtype, device=vectors.device)
    reflectors = vectors.tril(-1) + product
    for i in reversed(range(scales.shape[-1])):
        reflector = reflectors[..., i : i + 1]
        product = product - scales[..., i, None, None] * reflector @ (reflector.mH @ product)
    return product


def multiplied(x: Tensor) -> Tensor:
    """The product over the last dimension, by pairs."""
    if not x.shape[-1]:
        return x.new_ones(x.shape[:-1])
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        x = torch.cat([x[..., :half] * x[..., half : 2 * half], x[..., 2 * half :]], -1)
    return x.squeeze(-1)


def _prod(x: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    if not (x.is_floating_point() or x.is_complex()):
        return torch.prod(x, dtype=dtype) if dim is None else torch.prod(x, dim, keepdim, dtype=dtype)
    x = x.to(dtype or x.dtype)
    if dim is None or x.dim() == 0:
        return multiplied(x.reshape(-1))
    product = multiplied(x.movedim(dim, -1))
    return product.unsqueeze(dim) if keepdim else product


def _cumprod(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    if not (x.is_floating_point() or x.is_complex()) or x.dim() == 0:
        return torch.cumprod(x, dim, dtype=dtype)
    products, step = x.to(dtype or x.dtype).movedim(dim, -1), 1
    while step < products.shape[-1]:
        products = torch.cat([products[..., :step], products[..., step:] * products[..., :-step]], -1)
        step *= 2
    return products.movedim(-1, dim)


def _mse_loss(x: Tensor, y: Tensor, reduction: int = 1) -> Tensor:
    return _reduced((x - y).square(), reduction)


def _huber_loss(x: Tensor, y: Tensor, reduction: int = 1, delta: float = 1.0) -> Tensor:
    d = x - y
    return _reduced(torch.where(d.abs() <= delta, d.square() / 2, delta * (d.abs() - delta / 2)), reduction)


def _soft_margin_loss(x: Tensor, y: Tensor, reduction: int = 1) -> Tensor:
    return _reduced(torch.nn.functional.softplus(-x * y), reduction)


def _reduced(losses: Tensor, reduction: int) -> Tensor:
    """None, the mean or the sum, by PyTorch's numbers."""
    return losses.mean() if reduction == 1 else losses.sum() if reduction == 2 else losses


for _name, _rewrite in (
    ("aten::native_layer_norm", _layer_norm),
    ("aten::native_batch_norm", _batch_norm),
    ("aten::_native_batch_norm_legit", _batch_norm),
    ("aten::_native_batch_norm_legit.no_stats", _batch_norm),
    ("aten::cudnn_batch_norm", _batch_norm),
    ("aten::miopen_batch_norm", _batch_norm),
    ("aten::_linalg_solve_ex", _solve),
    ("aten::_linalg_slogdet", _slogdet),
    ("aten::cholesky_inverse", _cholesky_inverse),
    ("aten::linalg_householder_product", _householder_product),
):
    _in_both_modes(_name, _rewrite)

for _name, _rewritten in (
    ("aten::mse_loss", _mse_loss),
    ("aten::huber_loss", _huber_loss),
    ("aten::soft_margin_loss", _soft_margin_loss),
    ("aten::prod", _prod),
    ("aten::prod.dim_int", _prod),
    ("aten::cumprod", _cumprod),
):
    _written_out(_name, _rewritten)

for _name in (
    *("layer_norm", "batch_norm", "instance_norm", "linalg_solve", "linalg_solve_ex", "linalg_slogdet"),
    *("slogdet", "logdet", "linalg_tensorsolve", "_batch_norm_impl_index"),
):
    take_apart(f"aten::{_name}")
