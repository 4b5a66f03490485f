"""Scenarios that no program can be made of, each with what its refusal names."""

from __future__ import annotations

UNCAPTURED = {
    "number_of_steps_depends_on_the_data": r"aten\._local_scalar_dense.*science\.py, line \d+: while float",
    "least_squares_solution": r"aten\.linalg_lstsq",
    "scatter_reduce_by_products": r"aten\._local_scalar_dense",
    # The checkpoint puts the generator back before it draws its mask again, and no graph holds that.
    "checkpointed_block_with_dropout": r"differs from the tape's.*draws by aten\.bernoulli\.p",
}
