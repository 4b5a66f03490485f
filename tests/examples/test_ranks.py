"""The example on ranks finds the eigenvalues that one process finds, by another library."""

import ast

import pytest
import scipy.sparse.linalg
import torch

from tests.distributed.launch import forking, held

from .load import example


def test_two_ranks_find_the_eigenvalues_of_the_whole_loss() -> None:
    (said,) = held(forking("examples_on_ranks", "ranks.py"))
    digits = example("digits").problem(dtype=torch.float64)
    names, leaves = list(digits.inputs), list(digits.inputs.values())
    x = [leaf.requires_grad_() for leaf in leaves]
    gradient = torch.autograd.grad(digits.func(dict(zip(names, x, strict=True))), x, create_graph=True)
    lengths = [leaf.numel() for leaf in leaves]

    def product(v):
        parts = torch.from_numpy(v).reshape(-1).split(lengths)
        vectors = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        found = torch.autograd.grad(gradient, x, vectors, retain_graph=True)
        return torch.cat([leaf.reshape(-1) for leaf in found]).numpy()

    n = sum(lengths)
    operator = scipy.sparse.linalg.LinearOperator((n, n), matvec=product, dtype="float64")
    expected = scipy.sparse.linalg.eigsh(operator, k=5, which="LA", tol=1e-6, return_eigenvectors=False)
    assert ast.literal_eval(said) == pytest.approx(sorted(expected, reverse=True), rel=1e-3)
