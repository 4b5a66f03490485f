r"""Products of matrices at the places of a sparse one in compressed rows.

With the row :math:`r_k` and the column :math:`c_k` of the k-th value :math:`s_k`:

- ``sampled_addmm`` is :math:`\beta s_k + \alpha A_{r_k} \cdot B_{:, c_k}` at each place.
- ``mm`` with a reduction is, in each row and column, the sum, mean, maximum or minimum of :math:`s_k W_{c_k}`. Its
  gradient by :math:`s_k` is :math:`h_k \cdot W_{c_k}` and by :math:`W_{c_k}` it is :math:`s_k h_k`, where :math:`h_k`
  is the cotangent of the row, divided by the row's number of places for the mean, and kept for the maximum and the
  minimum where k attains it.

Source: https://docs.pytorch.org/docs/stable/sparse.html
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hesse._rules.rule import rule
from hesse._rules.sparse.pattern import pattern_of


@rule("aten::sparse_sampled_addmm")
def sampled_addmm(matrix: Tensor, left: Tensor, right: Tensor, beta: float, alpha: float) -> Tensor:
    """beta · matrix + alpha · (left @ right) at the places of the matrix."""
    pattern = pattern_of(matrix)
    rows, columns = pattern.indices
    products = (left[rows] * right.mT[columns]).sum(-1)
    return pattern.scatter(beta * pattern.gather(matrix) + alpha * products)


@rule("aten::_sparse_mm_reduce_impl_backward")
def mm_reduce_backward(
    matrix: Tensor, cotangent: Tensor, dense: Tensor, reduce: str, attained: Tensor, output_mask: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    """The gradients by the matrix, at its places, and by what it is multiplied with."""
    pattern = pattern_of(matrix)
    rows, columns = pattern.indices
    if reduce in ("sum", "mean"):
        shares = cotangent[rows]
        if reduce == "mean":
            shares = shares / rows.bincount()[rows].unsqueeze(1)
    else:
        # An empty row is attained by one place behind the last.
        shares = cotangent.new_zeros((len(rows) + 1, cotangent.shape[1])).scatter(0, attained, cotangent)[:-1]
    by_values = (shares * dense[columns]).sum(1)
    by_dense = torch.zeros_like(dense).index_add(0, columns, shares * pattern.gather(matrix).unsqueeze(1))
    return pattern.scatter(by_values), by_dense
