"""Operators that PyTorch's own double backward cannot judge, and those that finite differences cannot."""

from __future__ import annotations

RULED = {
    "_segment_reduce_lengths": "aten::_segment_reduce_backward",
    "_segment_reduce_offsets": "aten::_segment_reduce_backward",
    "cdist": "_cdist_backward",
    "nn_functional_ctc_loss": "aten::_ctc_loss_backward",
    "nn_functional_embedding_bag": "aten::_embedding_bag_per_sample_weights_backward",
    "nn_functional_hardsigmoid": "aten::hardsigmoid_backward",
    "nn_functional_linear_cross_entropy_chunked_none": "functions with out=... arguments don't support automatic",
    "nn_functional_multi_margin_loss": "aten::multi_margin_loss_backward",
    "nn_functional_multilabel_margin_loss": "aten::multilabel_margin_loss_backward",
    "nn_functional_scaled_dot_product_attention": "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    "nn_functional_pdist": "_pdist_backward",
    "sparse_mm_reduce": "is_coalesced expected sparse coordinate tensor layout but got SparseCsr",
    "sparse_sampled_addmm": "is_coalesced expected sparse coordinate tensor layout but got SparseCsr",
    "torch_ops_aten__scaled_dot_product_flash_attention_for_cpu": (
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward"
    ),
}
"""Right here, refused by some or all releases of PyTorch, or at some of their samples: what PyTorch's error says.

For the most part that is the operator that has a rule.
"""

WRONG_IN_PYTORCH = {
    "as_strided_scatter": "the gradient by the tensor is wrong",
    "nn_functional_linear_cross_entropy_chunked": "the gradient is right, its own derivative is not",
}
"""Where PyTorch's double backward gives a wrong number, and hesse the right one."""

LESS_EXACT_IN_PYTORCH = {
    "logcumsumexp": "the double backward subtracts rounded sums near 1e4, and hesse neighboring entries",
}
"""Where rounding in PyTorch's double backward is far larger than in hesse's product, which differences judge."""

NO_NUMBER_IN_PYTORCH = {
    "masked_logaddexp": "the double backward divides infinities where numbers are masked",
}
"""Where PyTorch's double backward is right at the first sample and no number at others, and hesse is right."""

LOW_PRECISION = {
    "bfloat16": 2**-8,
    "cfloat": 2**-24,
    "chalf": 2**-11,
    "float": 2**-24,
    "half": 2**-11,
}
"""Identities that round: judged by the identity, to a few of these units. Differences of rounded values say nothing."""

KINKS = {
    "linalg_norm_subgradients_at_zero": "no norm is differentiable at zero",
}
"""Samples at points where there is no second derivative: the product is no number."""
