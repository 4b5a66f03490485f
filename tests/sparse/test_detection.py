"""Patterns that are found: exact for programs of known kinds, a superset of the numeric ones for all."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor

import hesse
from hesse._sparse.detection import hessian_pattern

from ..scenarios.scenario import Scenario
from ..scenarios.table import EVERY_SCENARIO
from .patterns import Function, jacobian_pattern, numeric_jacobian_pattern, numeric_pattern


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(shape, dtype=torch.float64).normal_(generator=generator)


PAIRS = torch.tensor([[0, 3, 1, 5, 2, 6], [1, 0, 4, 6, 3, 0]])
COUPLING = torch.where(draw(6, 6, seed=1) > 0.7, draw(6, 6, seed=2), 0)
CHAIN = torch.diag(draw(7, seed=3)) + torch.diag(draw(6, seed=4), 1)
MASK = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0], [0, 0, 1, 0]], dtype=torch.float64)
WEIGHT = draw(3, 4, seed=8)
STENCIL = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64)[None, None]
KERNEL = draw(2, 1, 3, seed=5)
SAMPLES = draw(5, 3, seed=6)


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def grid_energy(u: Tensor) -> Tensor:
    slopes = (1 + u.diff(dim=0)[:, :-1] ** 2 + u.diff(dim=1)[:-1] ** 2).sqrt()
    return slopes.sum() + (u**4).sum()


def pair_energy(x: Tensor) -> Tensor:
    first, second = PAIRS
    squares = ((x[first] - x[second]) ** 2).sum(1)
    by_atom = torch.zeros(len(x), dtype=x.dtype).index_add(0, first, (-squares).exp())
    return (by_atom**2).sum()


def markov_field(x: Tensor) -> Tensor:
    return 0.5 * x @ COUPLING @ x + x.exp().sum()


def optimal_control(state: Tensor, control: Tensor) -> Tensor:
    predicted = state[:-1] + 0.1 * torch.stack((state[:-1, 1], control - state[:-1, 0].sin()), 1)
    return ((state[1:] - predicted) ** 2).sum() + (control**2).sum()


def convolved(x: Tensor) -> Tensor:
    return (F.conv1d(x[None, None], KERNEL, stride=2, padding=1) ** 3).sum()


def convolved_by_a_stencil(u: Tensor) -> Tensor:
    return (F.conv2d(u[None, None], STENCIL) ** 3).sum()


def separable_samples(latent: Tensor) -> Tensor:
    weight = draw(4, 3, seed=7)
    return F.linear(latent, weight).tanh().square().sum()


def mixture(x: Tensor) -> Tensor:
    y = torch.where(x[:-1] > 0, x[:-1] * x[1:], x[:-1] ** 2)
    return y.clamp(-1, 2).pow(3).sum() + (x.relu() ** 3).sum()


def sums_so_far(x: Tensor) -> Tensor:
    return (x[:3].cumsum(0) ** 3).sum() + x.cos().sum()


def by_sparse_matrices(x: Tensor) -> Tensor:
    rows = torch.mv(CHAIN.to_sparse_csr(), x)
    columns = torch.sparse.mm(CHAIN.to_sparse(), x[:, None]).squeeze(1)
    return (rows**3).sum() + (columns**3).sum()


def masked_layer(x: Tensor) -> Tensor:
    return F.linear(x, WEIGHT * MASK).sin().sum()


def written_into(x: Tensor) -> Tensor:
    y = torch.zeros(8, dtype=x.dtype)
    y[::2] = x[:4] ** 2
    y[1] = x[4] * x[5]
    y[0:2] *= x[0]
    y.view(2, 4).mul_(2)
    return (y**2).sum()


def loop_with_branches(x: Tensor) -> Tensor:
    total = x[0] ** 2
    for i in range(1, len(x)):
        total = total + (x[i] * x[i - 1]).sin()
        if float(x.detach().square().sum()) < 0:
            total = total * x.sum()
    return total


def normalized_rows(x: Tensor) -> Tensor:
    return (F.layer_norm(x, (3,)) ** 3).sum() + (x.softmax(1) * SAMPLES).sum()


def batched_matrices(x: Tensor) -> Tensor:
    return ((x.reshape(3, 2, 2) @ draw(3, 2, 2, seed=9)) ** 3).sum()


def networks(x: Tensor) -> Tensor:
    return torch.func.vmap(lambda row: (row[0] * row[1:]).exp().sum())(x).sum()


def transposed_convolution(x: Tensor) -> Tensor:
    return (F.conv_transpose1d(x[None, None], draw(1, 1, 2, seed=10), stride=3) ** 3).sum()


def pooled(u: Tensor) -> Tensor:
    return (F.avg_pool2d(u[None, None], 2) ** 3).sum()


def interpolated(x: Tensor) -> Tensor:
    return (F.interpolate(x[None, None], scale_factor=2, mode="linear") ** 3).sum()


def replicated(x: Tensor) -> Tensor:
    padded = F.pad(x[None, None], (1, 1), mode="replicate")[0, 0]
    return ((padded[1:] - padded[:-1]) ** 4).sum()


def detached(x: Tensor) -> Tensor:
    return (x[1:] * x[:-1].detach()).pow(3).sum() + (x.floor() * x.sign() * x).sum()


def linear(x: Tensor) -> Tensor:
    return (3 * x).sum()


def constant_in_part(x: Tensor) -> Tensor:
    return x[1] ** 2 + x[2]


PROGRAMS: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "Rosenbrock": (rosenbrock, (draw(9),)),
    "grid": (grid_energy, (draw(4, 5),)),
    "pairs": (pair_energy, (draw(7, 2),)),
    "Markov random field": (markov_field, (draw(6),)),
    "optimal control": (optimal_control, (draw(5, 2), draw(4))),
    "convolution": (convolved, (draw(11),)),
    "stencil": (convolved_by_a_stencil, (draw(5, 6),)),
    "separable samples": (separable_samples, (draw(5, 3),)),
    "where, clamp and relu": (mixture, (draw(6),)),
    "cumsum": (sums_so_far, (draw(6),)),
    "sparse constants": (by_sparse_matrices, (draw(7),)),
    "masked layer": (masked_layer, (draw(5, 4),)),
    "written in place": (written_into, (draw(6),)),
    "loop": (loop_with_branches, (draw(6),)),
    "normalized rows": (normalized_rows, (draw(5, 3),)),
    "batch of matrices": (batched_matrices, (draw(12),)),
    "vmap": (networks, (draw(4, 3),)),
    "transposed convolution": (transposed_convolution, (draw(5),)),
    "pooling": (pooled, (draw(4, 4),)),
    "interpolation": (interpolated, (draw(5),)),
    "padding": (replicated, (draw(5),)),
    "detached": (detached, (draw(6),)),
    "linear": (linear, (draw(4),)),
    "constant in part": (constant_in_part, (draw(5),)),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.one_in(4)
def test_the_pattern_of_a_known_kind_of_program_is_exact(name: str) -> None:
    func, inputs = PROGRAMS[name]
    found = hessian_pattern(func, inputs)
    assert isinstance(found, scipy.sparse.csr_array)
    assert found.dtype == bool
    assert found.has_canonical_format
    np.testing.assert_array_equal(found.toarray(), numeric_pattern(func, inputs))


@pytest.mark.private
@pytest.mark.parametrize("heads", [1, 2])
def test_samples_and_heads_of_attention_stay_apart(heads: int) -> None:
    def func(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x.sin()).pow(3).sum()

    x = draw(3, heads, 2, 2)
    expected = np.kron(np.eye(3 * heads), np.ones((4, 4))) != 0
    np.testing.assert_array_equal(hessian_pattern(func, x).toarray(), expected)
    np.testing.assert_array_equal(hesse.Hessian(func, x).to_dense().numpy() != 0, expected)


@EVERY_SCENARIO
@pytest.mark.one_in(7)
def test_the_pattern_of_every_scenario_holds_its_second_derivatives(scenario: Scenario) -> None:
    case, reference = scenario.build(), scenario.reference
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # patterns that are useless
        found = hessian_pattern(case.func, case.inputs).toarray()
    largest = float(reference.hessian.abs().max()) if reference.n else 0.0
    # Finite differences are not zero where they should be.
    there = (reference.hessian.abs() > 100 * reference.tolerance * max(largest, 1e-3)).numpy()
    assert not (there & ~found).any()


JACOBIANS = {
    "differences": (lambda x: x[1:] - x[:-1] ** 2, draw(6)),
    "pairs": (lambda x: ((x[PAIRS[0]] - x[PAIRS[1]]) ** 2).sum(1), draw(7, 2)),
    "layer": (lambda x: F.linear(x, MASK).sin(), draw(3, 4)),
    "sparse matrix": (lambda x: torch.mv(CHAIN.to_sparse_csr(), x.sin()), draw(7)),
    "constant rows": (lambda x: torch.cat((x[:2] * 2, torch.ones(3, dtype=x.dtype))), draw(4)),
    "scalar": (lambda x: (x[::2] ** 2).sum(), draw(5)),
    "cumsum": (lambda x: x.cumsum(0), draw(5)),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("name", JACOBIANS)
@pytest.mark.private
def test_the_pattern_of_a_jacobian_is_exact(name: str) -> None:
    func, x = JACOBIANS[name]
    found = jacobian_pattern(func, x)
    np.testing.assert_array_equal(found.toarray(), numeric_jacobian_pattern(func, x))


@pytest.mark.private
def test_rows_and_columns_are_in_the_order_of_leaves() -> None:
    inputs = ({"b": draw(2), "a": [draw(3, 2), draw()]},)

    def func(tree: dict[str, Any]) -> Tensor:
        matrix, scale = tree["a"]
        return (tree["b"] * matrix[0]).sum() ** 1 + scale * matrix[2].sin().sum()

    expected = np.zeros((9, 9), bool)
    for i, j in [(0, 2), (1, 3), (8, 6), (8, 7), (6, 6), (7, 7)]:
        expected[i, j] = expected[j, i] = True
    np.testing.assert_array_equal(hessian_pattern(func, inputs).toarray(), expected)


def test_several_outputs_of_a_jacobian_are_rows_in_the_order_of_leaves() -> None:
    found = jacobian_pattern(lambda x, y: {"sum": x + y[0], "square": y**2}, (draw(2), draw(3)))
    expected = np.array([[1, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]], bool)
    np.testing.assert_array_equal(found.toarray(), expected)


def test_complex_entries_are_two_numbers_that_go_together() -> None:
    z = torch.complex(draw(3), draw(3, seed=1))
    found = hessian_pattern(lambda z: (z[1:] * z[:-1].conj()).real.pow(2).sum(), z).toarray()
    H = hesse.Hessian(lambda z: (z[1:] * z[:-1].conj()).real.pow(2).sum(), z).to_dense().numpy()
    assert not (~found & (H != 0)).any()
    np.testing.assert_array_equal(found, np.kron(np.tri(3, k=1) * np.tri(3, k=1).T, np.ones((2, 2))) != 0)


def test_entries_that_vanish_at_the_point_alone_belong_to_the_pattern() -> None:
    x = torch.zeros(4, dtype=torch.float64)
    found = hessian_pattern(lambda x: (x**3).sum() + (x[0] * x[1]) ** 2 + x.relu().pow(3).sum(), x).toarray()
    expected = np.eye(4, dtype=bool)
    expected[0, 1] = expected[1, 0] = True
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "factor",
    [
        lambda x: torch.full((3,), float(x.detach()[0])),
        lambda x: torch.from_numpy(x.detach().numpy() * 2),
        lambda x: torch.tensor(x.detach().tolist()),
        lambda x: (x > 5).to(x.dtype),
        lambda x: torch.bernoulli(torch.zeros(3)),
    ],
)
def test_zeros_that_stem_from_the_point_or_from_chance_are_no_reason_to_leave_entries_out(factor: Any) -> None:
    found = hessian_pattern(lambda x: (factor(x) * x**2).sum(), torch.zeros(3, dtype=torch.float64))
    np.testing.assert_array_equal(found.toarray(), np.eye(3, dtype=bool))


class _ByNumPy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x**2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.from_numpy(gradient.detach().numpy() * 2.0)


class _ByComparison(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient if torch.equal(gradient, gradient.flip(0)) else 2 * gradient


class _ByAForeignTensor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.ones(3, dtype=gradient.dtype)


def test_a_derivative_that_depends_on_numbers_of_the_vector_is_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"reads numbers with aten\.equal"):
        jacobian_pattern(lambda x: _ByComparison.apply(x), draw(3))


def test_a_product_that_depends_on_nothing_and_is_not_zero_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="has numbers that no operator of PyTorch computed from the vector"):
        jacobian_pattern(lambda x: _ByAForeignTensor.apply(x), draw(3))


def test_a_derivative_computed_outside_of_pytorch_is_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"reads numbers with Tensor.numpy\. Give the pattern"):
        jacobian_pattern(lambda x: _ByNumPy.apply(x), draw(3))


def test_an_operator_without_a_rule_is_named_where_the_pattern_is_useless() -> None:
    def bilinear(x: Tensor) -> Tensor:
        return F.bilinear(x, x.sin(), draw(1, 3, 3, seed=3)).pow(3).sum()

    with pytest.warns(
        UserWarning, match=r"fills more than half .* hessian_pattern knows nothing about aten\._trilinear"
    ):
        found = hessian_pattern(bilinear, draw(2, 3))
    assert not (numeric_pattern(bilinear, (draw(2, 3),)) & ~found.toarray()).any()


def test_a_dense_pattern_of_known_operators_is_no_reason_to_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hessian_pattern(lambda x: x.sum() ** 3, draw(5)).nnz == 25


def test_a_pattern_larger_than_the_budget_is_refused() -> None:
    with pytest.raises(MemoryError, match=r"sparsity pattern has up to .* entries"):
        hessian_pattern(lambda x: x.sum() ** 3, draw(2000), memory="1MiB")


def test_inputs_without_a_flat_order_are_refused() -> None:
    with pytest.raises(
        TypeError, match=r"must be dense tensors but the Tensor has type Tensor and layout torch\.sparse"
    ):
        hessian_pattern(lambda x: x.to_dense().pow(2).sum(), draw(3).to_sparse())


def test_finding_a_pattern_changes_nothing() -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5)).double()
    x = draw(5, 3).requires_grad_()
    before, state = {name: value.clone() for name, value in net.state_dict().items()}, torch.get_rng_state()
    hessian_pattern(lambda x: (net(x) ** 2).sum(), x)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert x.grad is None
    assert x.requires_grad


def test_a_large_chain_has_three_entries_a_row() -> None:
    found = hessian_pattern(rosenbrock, torch.zeros(100_000))
    expected = scipy.sparse.diags_array([np.ones(99_999), np.ones(100_000), np.ones(99_999)], offsets=[-1, 0, 1])
    assert (found != (expected.tocsr() != 0)).nnz == 0


# Some releases of PyTorch say once a process that they do not check these matrices.
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
@pytest.mark.private
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.one_in(2)
def test_a_large_sparse_constant_is_never_made_dense(layout: torch.layout) -> None:
    size = 200_000
    places = torch.stack((torch.arange(size), (torch.arange(size) * 7 + 3) % size))
    matrix = torch.sparse_coo_tensor(places, torch.ones(size), (size, size), check_invariants=True).coalesce()
    matrix = matrix.to_sparse(layout=layout)
    found = hessian_pattern(lambda x: (torch.mv(matrix, x.sin()) * x).sum(), torch.zeros(size))
    assert found.nnz == 3 * size
    coupled = scipy.sparse.csr_array((np.ones(size, bool), tuple(places.numpy())), shape=(size, size))
    assert (coupled > found).nnz == 0
