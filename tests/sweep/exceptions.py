"""Operators of PyTorch 2.13 for which a product is refused, or finite differences are no judge."""

from __future__ import annotations

REFUSED = {}
"""The operator without a derivative that the error names."""

RULED = {
    "nn_functional_linear_cross_entropy_chunked_none": "functions with out=... arguments don't support automatic",
    "nn_functional_ctc_loss": "aten::_ctc_loss_backward",
    "sparse_sampled_addmm": "is_coalesced expected sparse coordinate tensor layout but got SparseCsr",
    "sparse_mm_reduce": "is_coalesced expected sparse coordinate tensor layout but got SparseCsr",
    "_segment_reduce_offsets": "aten::_segment_reduce_backward",
    "_segment_reduce_lengths": "aten::_segment_reduce_backward",
    "nn_functional_embedding_bag": "aten::_embedding_bag_per_sample_weights_backward",
    "nn_functional_pdist": "_pdist_backward",
    "cdist": "_cdist_backward",
    "nn_functional_hardsigmoid": "aten::hardsigmoid_backward",
    "nn_functional_multilabel_margin_loss": "aten::multilabel_margin_loss_backward",
    "nn_functional_multi_margin_loss": "aten::multi_margin_loss_backward",
}
"""Refused by PyTorch, right here: what PyTorch's error names, for the most part the operator that has a rule."""

REFUSED_WITHOUT_A_NAME = {}
"""What PyTorch says instead."""

WRONG_IN_PYTORCH = {
    "nn_functional_linear_cross_entropy_chunked": "the gradient is right, its own derivative is not",
}
"""Where PyTorch's double backward, and so ours, gives a wrong number."""

NOT_JUDGED = {
    "__rpow__": "powers of negative numbers: every sample is NaN",
    "as_strided_scatter": "PyTorch's gradient by the input is wrong, so differences of it say nothing",
    "bfloat16": "rounds to low precision inside",
    "cfloat": "rounds to single precision inside",
    "chalf": "rounds to low precision inside",
    "float": "rounds to single precision inside",
    "half": "rounds to low precision inside",
    "linalg_norm_subgradients_at_zero": "a kink; the product is NaN",
    "nn_functional_cosine_embedding_loss": "labels count as differentiable inputs, and are compared with 1",
    "nn_functional_hinge_embedding_loss": "labels count as differentiable inputs, and are compared with 1",
    "nn_functional_max_unpool3d": "the sample's indices repeat, so that one value overwrites another",
    "special_erfcx": "derivatives of 1e18 inside a sine",
}
"""Why finite differences of the gradient are no judge."""
