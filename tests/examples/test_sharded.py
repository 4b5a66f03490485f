"""The example of a sharded language model finds the largest eigenvalue that one process finds, by another library."""

import ast

import pytest
import scipy.sparse.linalg
import torch
from torch.func import functional_call

from tests.distributed.launch import forking, held

from .load import FOLDER, example


def test_two_ranks_find_the_largest_eigenvalue_of_the_sharded_model() -> None:
    (said,) = held(forking("examples_on_ranks", "sharded.py"))
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
    assert ast.literal_eval(said) == pytest.approx(list(expected), rel=1e-3)


@pytest.mark.parametrize("name", ["ranks.py", "sharded.py"])
def test_a_script_for_ranks_has_twelve_lines_beside_its_imports(name: str) -> None:
    _, script = (FOLDER / name).read_text().split('if __name__ == "__main__":\n')
    assert len(script.splitlines()) <= 12
