r"""``torch.linalg.det``: a polynomial of the entries, so that derivatives exist at every matrix.

PyTorch's gradient :math:`\det(A) A^{-H}` is zero at singular matrices, where the cofactors need not be; inside
transforms and programs it differentiates singular vectors, which do not exist where singular values are equal.

With constants :math:`U, V` from the singular value decomposition at the point, :math:`B = U^H A V = \Sigma + E` where
:math:`E` is zero and carries the derivatives. The determinant of :math:`B` is that of its leading block times that of
the Schur complement of the last three rows and columns, which belong to the smallest singular values:

.. math:: \det B = \det B_{11} \det(B_{22} - B_{21} B_{11}^{-1} B_{12}).

The leading block is singular only where four singular values are zero; there all derivatives up to the third vanish,
and higher ones count as zero too. Three by three and smaller are written out. Well-conditioned matrices stay PyTorch's
outside of transforms, which is faster.

Source: https://en.wikipedia.org/wiki/Schur_complement; the rest is elementary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._base.forward_mode import is_on
from hesse._rules.batches import has_values
from hesse._rules.rule import rule


def _is_needed(arguments: Sequence[Any]) -> bool:
    """Whether some matrix is singular, or so near to it that PyTorch's second derivative loses digits."""
    matrix: Tensor = arguments[0]
    if is_on() or not has_values(matrix) or not matrix.numel():
        return True
    with torch.no_grad():
        pivots = torch.linalg.lu_factor_ex(matrix)[0].diagonal(dim1=-2, dim2=-1).abs()
    least = torch.finfo(pivots.dtype).eps ** 0.25 * pivots.amax(-1)
    return not bool((pivots.amin(-1) > least).all())


def _in_both_modes(arguments: Sequence[Any]) -> Any:
    """PyTorch's forward mode has a wrong derivative by reverse mode; see ``both_modes``."""
    return determinant(*arguments) if is_on() else None


@rule("aten::_linalg_det", where=_is_needed, otherwise=_in_both_modes)
def determinant(matrix: Tensor) -> tuple[Tensor, None, None]:
    """The determinants; the factorization that comes with them is not differentiable."""
    return (_written_out(matrix) if matrix.shape[-1] <= 3 else _by_blocks(matrix)), None, None


def _written_out(a: Tensor) -> Tensor:
    size = a.shape[-1]
    if size == 0:
        return a.new_ones(a.shape[:-2])
    if size == 1:
        return a[..., 0, 0]
    if size == 2:
        return a[..., 0, 0] * a[..., 1, 1] - a[..., 0, 1] * a[..., 1, 0]
    cofactors: Tensor = torch.linalg.cross(a[..., 1, :], a[..., 2, :])
    return (a[..., 0, :] * cofactors).sum(-1)


def _by_blocks(matrix: Tensor) -> Tensor:
    # Rows and columns of one size, so that the decomposition finds small ones, too.
    by_row = _sizes(matrix.detach(), -1)
    by_column = _sizes(matrix.detach() / by_row, -2)
    scaled = matrix / by_row / by_column
    point = scaled.detach()
    finite = point.isfinite().all((-2, -1))
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    u, sigma, vh = torch.linalg.svd(torch.where(finite[..., None, None], point, identity))
    e = u.mH @ (scaled - point) @ vh.mH
    leading = sigma[..., :-3]
    # Of smaller ones the third power has no reciprocal.
    zero = leading <= torch.finfo(leading.dtype).tiny ** (1 / 3) * sigma[..., :1]
    divided = e[..., :-3, :] / torch.where(zero, 1, leading).unsqueeze(-1)
    block = identity[:-3, :-3] + divided[..., :-3]
    # At the point the block is an identity, whose rows are not exchanged.
    lu, pivots, _ = torch.linalg.lu_factor_ex(block)
    complement = torch.diag_embed(sigma[..., -3:]) + e[..., -3:, -3:]
    complement = complement - e[..., -3:, :-3] @ torch.linalg.lu_solve(lu, pivots, divided[..., -3:])
    sizes = by_row[..., 0] * by_column[..., 0, :]
    factor = (sizes[..., :-3] * torch.where(zero, 0, leading)).prod(-1) * sizes[..., -3:].prod(-1)
    result = torch.linalg.det(u @ vh) * factor * lu.diagonal(dim1=-2, dim2=-1).prod(-1) * _written_out(complement)
    return torch.where(finite, result, torch.nan)


def _sizes(matrix: Tensor, dim: int) -> Tensor:
    """The largest modulus along a dimension; one where all is zero."""
    size = matrix.abs().amax(dim, keepdim=True)
    return torch.where(size == 0, 1, size)
