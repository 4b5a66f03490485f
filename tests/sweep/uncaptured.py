"""Operators that no program can be made of, each with what the refusal names."""

from __future__ import annotations

READ_VALUES = {
    "index_reduce_prod": "aten._local_scalar_dense",
    "linalg_lstsq": "aten.linalg_lstsq",
    "linalg_lstsq_grad_oriented": "aten.linalg_lstsq",
    "nn_functional_ctc_loss": "aten._ctc_loss",
    "scatter_reduce_prod": "aten._local_scalar_dense",
}
"""Shapes or branches that depend on the values of the variables."""

SPARSE = {
    "sparse_mm_reduce": "layout torch.sparse_csr",
    "sparse_sampled_addmm": "layout torch.sparse_csr",
    "to_sparse": "SparseMeta",
}

OTHERWISE = {
    "tensor_split": "The tensor has a non-zero number of elements, but its data is not allocated yet",
    # Inductor's decompositions lose digits: in saturation, and by a constant in single precision.
    "nn_functional_soft_margin_loss": "differs from the tape's",
    "nn_functional_hardsigmoid": "differs from the tape's",
}

SEEDED = {
    "bernoulli": "draws by aten.bernoulli",
    "nn_functional_multi_head_attention_forward": "draws by aten.bernoulli",
    "nn_functional_rrelu": "draws by aten.rrelu_with_noise",
    "normal": "draws by aten.normal",
    "normal_number_mean": "draws by aten.normal",
}
"""The database itself sets the generator before it calls these, and puts it back: a program cannot."""

WITHOUT_A_PROGRAM = {
    **READ_VALUES,
    **SPARSE,
    **SEEDED,
    **OTHERWISE,
}
"""What each refusal names."""

DRAWS = "it sets the state of the random generator and draws by aten."
"""The sweep's functions seed the generator so that each evaluation draws the same, and no program does that."""
