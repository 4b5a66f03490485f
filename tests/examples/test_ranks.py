"""The examples on ranks find the eigenvalues that one process finds, by another library."""

import ast

import pytest
import scipy.sparse.linalg
import torch
from torch.func import functional_call

from tests.distributed.launch import forking

from .load import FOLDER, example

NAMES = ["ranks.py", "sharded.py"]


def said(name: str) -> list[float]:
    """The eigenvalues that an example prints."""
    run = forking("examples_on_ranks", name)
    assert run.returncode == 0, run.stdout + run.stderr
    return list(ast.literal_eval(run.stdout))


def test_two_ranks_find_the_eigenvalues_of_the_whole_loss() -> None:
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
    # Errors of eigenvalues are at most the residuals, relative to the largest.
    expected = scipy.sparse.linalg.eigsh(operator, k=5, which="LA", tol=1e-4, return_eigenvectors=False)
    assert said("ranks.py") == pytest.approx(sorted(expected, reverse=True), rel=1e-3)


@pytest.mark.exhaustive
def test_two_ranks_find_the_largest_eigenvalue_of_the_sharded_model() -> None:
    language_model = example("language_model")
    x, y, alphabet = language_model.sequences()
    x, y = x[:32], y[:32]
    torch.manual_seed(0)
    model, loss = language_model.Model(len(alphabet)), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(10):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    leaves = {name: parameter.detach().requires_grad_() for name, parameter in model.named_parameters()}
    shapes = [leaf.shape for leaf in leaves.values()]
    # The fused attention has no second derivative.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        value = loss(functional_call(model, leaves, (x,)), y)
    gradient = torch.autograd.grad(value, list(leaves.values()), create_graph=True)
    lengths = [leaf.numel() for leaf in leaves.values()]

    def product(v):
        parts = torch.from_numpy(v).float().reshape(-1).split(lengths)
        vectors = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        found = torch.autograd.grad(gradient, list(leaves.values()), vectors, retain_graph=True)
        return torch.cat([leaf.reshape(-1) for leaf in found]).numpy()

    n = sum(lengths)
    operator = scipy.sparse.linalg.LinearOperator((n, n), matvec=product, dtype="float32")
    expected = scipy.sparse.linalg.eigsh(operator, k=1, which="LA", tol=1e-3, return_eigenvectors=False)
    assert said("sharded.py") == pytest.approx(list(expected), rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_script_for_ranks_has_twelve_lines_beside_its_imports(name: str) -> None:
    _, script = (FOLDER / name).read_text().split('if __name__ == "__main__":\n')
    assert len(script.splitlines()) <= 12
