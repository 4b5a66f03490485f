r"""EmbeddingBag: for each bag the weighted sum, the mean, or the elementwise maximum of rows of a table.

With bag :math:`b(k)` of the k-th index :math:`i_k` and its weight :math:`s_k`, the output of a bag is
:math:`\sum_{k: b(k) = b} s_k w_{i_k}`. So the gradient of cotangents :math:`g_b` by row :math:`w_i` is
:math:`\sum_{k: i_k = i} s_k g_{b(k)}`, and by :math:`s_k` it is :math:`g_{b(k)} \cdot w_{i_k}`. A mean has
:math:`s_k = 1/n_{b(k)}`, and a maximum hands each coordinate on to the row that holds it. Indices equal to the padding
index count for nothing.

Scaling by frequency divides the gradient by how often an index occurs, which makes it the gradient of no function. The
scale is left out of the derivative of the gradient, as PyTorch leaves it out for embedding: the product that comes out
is the derivative of the scaled gradient in the direction of the vector.

Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.EmbeddingBag.html
"""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._rules.rule import rule

MEAN, MAX = 1, 2
"""What aten calls the modes "mean" and "max"."""


@rule("aten::_embedding_bag_backward")
def embedding_bag_backward(
    cotangent: Tensor,
    indices: Tensor,
    offsets: Tensor,
    offset2bag: Tensor,
    bag_size: Tensor,
    maximum_indices: Tensor,
    num_weights: int,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    per_sample_weights: Tensor | None,
    padding_idx: int,
) -> Tensor:
    """The gradient by the table, (num_weights, k), of cotangents (bags, k)."""
    bags = _bags(indices, offsets)
    counted = (indices != padding_idx).to(cotangent.dtype)
    sizes = counted.new_zeros(len(cotangent)).index_add(0, bags, counted)
    table = cotangent.new_zeros((num_weights, cotangent.shape[1]))
    if mode == MAX:
        return table.scatter_add(0, maximum_indices.long(), cotangent * (sizes > 0).unsqueeze(1))
    scales = counted
    if mode == MEAN:
        scales = scales / sizes[bags].clamp(min=1)
    if per_sample_weights is not None:
        scales = scales * per_sample_weights
    rows = cotangent[bags] * scales.unsqueeze(1)
    if sparse:
        return torch.sparse_coo_tensor(
            indices.unsqueeze(0), rows, table.shape, device=rows.device, check_invariants=False
        )
    return table.index_add(0, indices, rows)


@rule("aten::_embedding_bag_per_sample_weights_backward")
def embedding_bag_per_sample_weights_backward(
    cotangent: Tensor,
    table: Tensor,
    indices: Tensor,
    offsets: Tensor,
    offset2bag: Tensor,
    mode: int,
    padding_idx: int,
) -> Tensor:
    """The gradient by the weights of the indices."""
    products = (cotangent[_bags(indices, offsets)] * table[indices]).sum(1)
    return products * (indices != padding_idx)


def _bags(indices: Tensor, offsets: Tensor) -> Tensor:
    """The bag of each index. PyTorch's own list of them is left empty by its fastest forward."""
    places = torch.arange(len(indices), device=offsets.device, dtype=offsets.dtype)
    return torch.searchsorted(offsets, places, right=True) - 1
