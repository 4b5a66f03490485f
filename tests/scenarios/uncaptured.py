"""Scenarios that no program can be made of, each with what its refusal names."""

from __future__ import annotations

READS_VALUES = "needs the values of a tensor"

UNCAPTURED = {
    "number_of_steps_depends_on_the_data": r"aten\._local_scalar_dense.*science\.py, line \d+: while float",
    "gaussian_likelihood_with_learned_variance": r"aten\._local_scalar_dense.*networks\.py, line \d+",
    "least_squares_solution": r"aten\.linalg_lstsq",
    "scatter_reduce_by_products": r"aten\._local_scalar_dense",
    "masks_and_advanced_indexing": r"aten\.nonzero.*indexing\.py, line \d+",
    "statistics": r"aten\.equal",
    # The checkpoint puts the generator back before it draws its mask again, and no graph holds that.
    "checkpointed_block_with_dropout": r"differs from the tape's.*draws by aten\.bernoulli\.p",
}
UNCAPTURED_BOTH_WAYS = {**UNCAPTURED, "matrix_power_and_trace": r"aten\._unique"}
"""With the double-backward trick: the backward of the trace's backward looks for repeated indices."""
