"""Scenarios that PyTorch cannot pull a batch of vectors back through, each with its reason.

A batched backward (``is_grads_batched``) runs the backward under vmap. Everything not named here must batch.
"""

from __future__ import annotations

from tests.capabilities import batches_group_norm

GROUP_NORM = {
    "group_norm": "the backward of native_group_norm_backward puts the batch in the wrong place",
    "convolution_followed_by_group_norm": "as group_norm",
    "group_norm_of_square_groups": "as group_norm, but with sizes at which the misplaced batch fits: PyTorch's"
    " batched numbers are wrong without a word, and only a comparison with single ones shows it",
}
UNBATCHABLE = {
    **({} if batches_group_norm() else GROUP_NORM),
    "checkpointed_block_with_dropout": "vmap refuses to draw, and a checkpoint draws its mask again",
}
