"""Sparse matrices of functions and data, against dense ones and closed forms in float64."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

import hesse
from hesse._sparse import verification


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def band(n: int, width: int = 1) -> scipy.sparse.csr_array:
    offsets = list(range(-width, width + 1))
    return scipy.sparse.diags_array([np.ones(n - abs(k)) for k in offsets], offsets=offsets, format="csr")


def grid(side: int) -> scipy.sparse.csr_array:
    line, same = band(side), scipy.sparse.eye_array(side)
    return scipy.sparse.csr_array(scipy.sparse.kron(line, same) + scipy.sparse.kron(same, line))


def membrane(u: Tensor) -> Tensor:
    """A minimal-surface energy with a potential on a square grid."""
    right, down = u[:, 1:] - u[:, :-1], u[1:] - u[:-1]
    return (1 + right**2).sqrt().sum() + (1 + down**2).sqrt().sum() + (u**4).sum() / 4


def clusters(atoms: int) -> tuple[Tensor, Tensor]:
    """Positions on a shaken lattice, and the pairs nearer than the cutoff."""
    side = round(atoms ** (1 / 3))
    axis = torch.arange(side, dtype=torch.float64) * 1.2
    positions = torch.cartesian_prod(axis, axis, axis) + 0.1 * torch.rand(
        side**3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    return positions, (torch.cdist(positions, positions).triu(1).fill_diagonal_(9) < 1.8).logical_and(
        torch.ones(side**3, side**3).triu(1).bool()
    ).nonzero().T


def lennard_jones(pairs: Tensor):
    def energy(positions: Tensor) -> Tensor:
        inverse = 1 / (positions[pairs[0]] - positions[pairs[1]]).square().sum(-1) ** 3
        return (4 * (inverse**2 - inverse)).sum()

    return energy


def three_each(pairs: Tensor, atoms: int) -> scipy.sparse.csr_array:
    graph = scipy.sparse.coo_array((np.ones(pairs.shape[1]), pairs.numpy()), shape=(atoms, atoms))
    return scipy.sparse.csr_array(scipy.sparse.kron(graph + graph.T + scipy.sparse.eye_array(atoms), np.ones((3, 3))))


def control(variables: dict[str, Tensor]) -> Tensor:
    """Steering a pendulum, with its dynamics as a penalty."""
    angle, speed, torque = variables["angle"], variables["speed"], variables["torque"]
    step = 0.1
    drift = (angle[1:] - angle[:-1] - step * speed[:-1]).square().sum()
    kick = (speed[1:] - speed[:-1] - step * (torque - angle[:-1].sin())).square().sum()
    return 50 * (drift + kick) + torque.square().sum() + (angle[-1] - 1) ** 2


def control_pattern(steps: int) -> np.ndarray:
    """Angles, speeds and torques of one step and the next meet."""
    when = np.concatenate([np.arange(steps), np.arange(steps), np.arange(steps - 1)])
    return abs(when[:, None] - when[None, :]) <= 1


def random(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def problems():
    positions, pairs = clusters(27)
    steps = {"angle": random(12), "speed": random(12), "torque": random(11)}
    return {
        "Rosenbrock": (rosenbrock, random(30), band(30)),
        "grid": (membrane, random(7, 7), grid(7)),
        "Lennard-Jones": (lennard_jones(pairs), positions, three_each(pairs, 27)),
        "control": (control, steps, control_pattern(12)),
    }


def dense(func, inputs) -> Tensor:
    """The Hessian by torch.func, in the order of flat vectors."""
    if isinstance(inputs, Tensor):
        return torch.func.hessian(func)(inputs).reshape(inputs.numel(), -1)
    blocks = torch.func.hessian(func)(inputs)
    return torch.cat([torch.cat([blocks[i][j] for j in inputs], dim=1) for i in inputs])


@pytest.mark.parametrize("problem", problems())
def test_the_hessian_of_each_problem_is_right(problem):
    func, inputs, pattern = problems()[problem]
    H = hesse.Hessian(func, inputs)
    found = H.to_sparse(pattern)
    expected = dense(func, inputs)
    assert found.layout == torch.sparse_csr
    torch.testing.assert_close(found.to_dense(), expected, rtol=1e-12, atol=1e-11 * float(expected.abs().max()))
    assert torch.equal(found.to_dense(), found.to_dense().T)
    explanation = H.explain()
    assert explanation.colors is not None
    assert explanation.colors < len(expected)
    # The pattern that is found holds no place that is zero at every point, nor misses any.
    alone = hesse.Hessian(func, inputs).to_sparse()
    assert torch.equal(alone.to_dense() != 0, expected != 0)
    torch.testing.assert_close(alone.to_dense(), found.to_dense())
    assert f"{found.values().numel()} entries from {explanation.colors} products" in str(explanation)


def test_a_gaussian_markov_random_field_has_its_precision_matrix():
    precision = grid(6) + 5 * scipy.sparse.eye_array(36)
    matrix = torch.from_numpy(precision.toarray())
    found = hesse.sparse_hessian(lambda x: x @ matrix @ x / 2, random(36), precision)
    np.testing.assert_allclose(hesse.to_scipy(found).toarray(), precision.toarray(), rtol=1e-14)
    assert hesse.to_scipy(found).nnz == precision.nnz


def test_a_hessian_takes_a_product_for_each_color_and_two_to_compare():
    counted = []

    def func(x: Tensor) -> Tensor:
        counted.append(x)
        return rosenbrock(x)

    H = hesse.Hessian(func, random(1000), engine="tape")
    H.to_sparse(band(1000))
    assert len(counted) == 1
    assert H.explain().colors == 3
    assert H._point.asked == 3 + 2


def test_the_plan_goes_along_to_other_points(monkeypatch):
    from hesse._operators import sparse

    made = []
    monkeypatch.setattr(sparse, "plan", lambda *a, plan=sparse.plan, **k: made.append(plan(*a, **k)) or made[-1])
    pattern = band(30)
    H = hesse.Hessian(rosenbrock, random(30))
    H.to_sparse(pattern)
    for shift in (1.0, 2.0):
        H = H.at(random(30) + shift)
        for again in (None, pattern):
            torch.testing.assert_close(H.to_sparse(again).to_dense(), dense(rosenbrock, random(30) + shift))
    assert len(made) == 1
    H.to_sparse(band(30, 2))
    assert len(made) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_a_pattern_that_lacks_an_entry_is_refused(dtype, size):
    def func(x: Tensor) -> Tensor:
        return (x**4).sum() + size * x[3] * x[17]

    with pytest.raises(ValueError, match=r"given to sparse_hessian\(\) lacks an entry in row (3|17)"):
        hesse.sparse_hessian(func, random(20).to(dtype), scipy.sparse.eye_array(20))
    edges = torch.tensor([[3], [17]])
    torch.testing.assert_close(
        hesse.sparse_hessian(func, random(20).to(dtype), edges).to_dense(), dense(func, random(20).to(dtype))
    )


def test_a_small_entry_beside_large_ones_in_other_rows_is_missed_by_none():
    def func(x: Tensor) -> Tensor:
        return 1e8 * (x[:10] ** 2).sum() + 1e-6 * (x[10:] ** 2).sum() + 1e-6 * x[10] * x[12]

    with pytest.raises(ValueError, match=r"lacks an entry in row (10|12)"):
        hesse.sparse_hessian(func, random(20), scipy.sparse.eye_array(20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_terms_that_cancel_are_taken_for_rounding(dtype):
    def func(x: Tensor) -> Tensor:
        total = x.sum()
        # Of all entries but those of the diagonal, rounding is left.
        return 1e3 * total**2 - 1e3 * (x.flip(0).sum()) ** 2 + (x**2).sum()

    x = random(50).to(dtype)
    found = hesse.sparse_hessian(func, x, scipy.sparse.eye_array(50)).to_dense()
    torch.testing.assert_close(found, 2 * torch.eye(50, dtype=dtype), rtol=0.0, atol=1e4 * torch.finfo(dtype).eps * 50)


def chain_of_sorted(x: Tensor) -> Tensor:
    return (x.sort().values.diff() ** 3).sum()


def swapped() -> tuple[Tensor, Tensor]:
    """Two points with other neighbors."""
    x = torch.arange(8, dtype=torch.float64)
    moved = x.clone()
    moved[[1, 6]] = moved[[6, 1]]
    return x + 0.1 * random(8), moved + 0.1 * random(8)


def test_neighbors_that_move_are_refused_where_the_pattern_was_given():
    x, moved = swapped()
    H = hesse.Hessian(chain_of_sorted, x)
    H.to_sparse(band(8))
    with pytest.raises(ValueError, match=r"given to to_sparse\(\) lacks an entry"):
        H.at(moved).to_sparse()


def test_neighbors_that_move_are_found_anew():
    x, moved = swapped()
    H = hesse.Hessian(chain_of_sorted, x)
    torch.testing.assert_close(H.to_sparse().to_dense(), dense(chain_of_sorted, x))
    torch.testing.assert_close(H.at(moved).to_sparse().to_dense(), dense(chain_of_sorted, moved))


def test_a_pattern_that_is_found_wrongly_is_refused(monkeypatch):
    H = hesse.Hessian(rosenbrock, random(8))
    monkeypatch.setattr(H, "_find_pattern", lambda: scipy.sparse.eye_array(8))
    with pytest.raises(ValueError, match=r"found for to_sparse\(\) lacks an entry"):
        H.to_sparse()


def test_patterns_are_found_with_auxiliary_outputs_and_chosen_arguments():
    x, y = random(6), random(6)
    H = hesse.Hessian(lambda x, y: (((x[1:] * y[1:] * x[:-1]) ** 2).sum(), "aux"), (x, y), has_aux=True, argnums=0)
    expected = dense(lambda x: ((x[1:] * y[1:] * x[:-1]) ** 2).sum(), x)
    found = H.to_sparse()
    torch.testing.assert_close(found.to_dense(), expected)
    assert found.values().numel() == int((expected != 0).sum())
    each = hesse.Hessian(lambda x: (x**3).sum(1) + x.prod(1), random(4, 3), batch_dim=0)
    torch.testing.assert_close(each.to_sparse().to_dense(), each.to_dense())
    assert each.explain().colors == 3


@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
def test_jacobians_are_right(shape):
    m, n = shape
    generator = np.random.default_rng(0)
    weights = scipy.sparse.random_array((m, n), density=0.1, rng=generator)
    matrix = torch.from_numpy(weights.toarray())
    J = hesse.Jacobian(lambda x: (matrix @ x.sin()).exp(), random(n))
    found = J.to_sparse(weights)
    expected = torch.func.jacrev(lambda x: (matrix @ x.sin()).exp())(random(n))
    torch.testing.assert_close(found.to_dense(), expected)
    assert J.explain().colors < min(m, n)
    torch.testing.assert_close(J.T.to_sparse(weights.T).to_dense(), expected.T)


def test_gauss_newton_matrices_of_residuals_are_right():
    def residuals(x: Tensor) -> Tensor:
        return torch.cat([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]])

    G = hesse.GaussNewton(residuals, random(20))
    J = torch.func.jacrev(residuals)(random(20))
    torch.testing.assert_close(G.to_sparse(band(20)).to_dense(), J.T @ J)
    weighted = hesse.GaussNewton(residuals, random(20), loss=lambda r: (1 + r**2).sqrt().sum())
    L = torch.func.hessian(lambda r: (1 + r**2).sqrt().sum())(residuals(random(20)))
    torch.testing.assert_close(weighted.to_sparse(band(20)).to_dense(), J.T @ L @ J)
    for alone, expected in ((hesse.GaussNewton(residuals, random(20)), J.T @ J), (weighted.at(), J.T @ L @ J)):
        torch.testing.assert_close(alone.to_sparse().to_dense(), expected)
        assert alone.explain().colors == 3


def test_the_pattern_of_a_jacobian_is_found():
    def residuals(x: Tensor) -> Tensor:
        return torch.cat([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]])

    J = hesse.Jacobian(residuals, random(20))
    expected = torch.func.jacrev(residuals)(random(20))
    found = J.to_sparse()
    torch.testing.assert_close(found.to_dense(), expected)
    assert found.values().numel() == int((expected != 0).sum())


def test_operators_over_data_and_sums_are_right():
    model = torch.nn.Linear(3, 2, dtype=torch.float64)
    data = random(5, 3), random(5, 2)
    H = hesse.LossHessian(model, torch.nn.MSELoss(), data)
    # Outputs of a linear layer are independent: of each, its weights and its bias.
    output = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    pattern = output[:, None] == output[None, :]
    torch.testing.assert_close(H.to_sparse(pattern).to_dense(), H.to_dense())
    torch.testing.assert_close(H.shift(2.0).to_sparse(pattern).to_dense(), H.shift(2.0).to_dense())


def test_complex_inputs_count_twice():
    z = torch.complex(random(4), random(4) + 1)
    H = hesse.Hessian(lambda z: (z.abs() ** 3).sum() + z.real.prod(), z)
    found = H.to_sparse(np.ones((8, 8), dtype=bool))
    torch.testing.assert_close(found.to_dense(), H.to_dense())


@pytest.mark.parametrize("n", [1, 2])
def test_the_smallest_functions_are_right(n):
    found = hesse.sparse_hessian(lambda x: (x**3).sum(), random(n), np.eye(n, dtype=bool))
    torch.testing.assert_close(found.to_dense(), torch.diag(6 * random(n)))


def test_a_linear_function_has_an_empty_matrix():
    found = hesse.sparse_hessian(lambda x: x.sum(), random(5), scipy.sparse.csr_array((5, 5)))
    assert found.values().numel() == 0
    with pytest.raises(ValueError, match="lacks an entry"):
        hesse.sparse_hessian(lambda x: x.prod(), random(5), scipy.sparse.csr_array((5, 5)))


def test_vectors_go_through_the_graph_in_batches_where_asked():
    H = hesse.Hessian(rosenbrock, random(200), batching="vmap")
    torch.testing.assert_close(H.to_sparse(band(200, 20)).to_dense(), dense(rosenbrock, random(200)))
    assert H.explain().colors > 16


def test_a_matrix_that_does_not_fit_is_refused():
    with pytest.raises(hesse.MemoryBudgetError, match=r"sparse matrix of 2998 entries takes .* but 1000 bytes"):
        hesse.sparse_hessian(rosenbrock, random(1000), band(1000), memory=1000)


def test_derivatives_are_not_cut_off_without_a_word():
    H = hesse.Hessian(rosenbrock, random(5).requires_grad_(), create_graph=True)
    with pytest.raises(ValueError, match="cut off the derivatives"):
        H.to_sparse(band(5))


def test_narrow_indices_go_with_wide_ones():
    S = hesse.sparse_hessian(rosenbrock, torch.linspace(0.5, 1.5, 30, dtype=torch.float64))
    dense = S.to_dense()
    wide = dense.to_sparse_csr()
    assert (S.crow_indices().dtype, S.col_indices().dtype) == (torch.int32, torch.int32)
    assert wide.crow_indices().dtype == torch.int64
    torch.testing.assert_close((S + wide).to_dense(), 2 * dense)
    torch.testing.assert_close((S @ wide).to_dense(), dense @ dense)
    torch.testing.assert_close(wide @ (S @ dense[0]), dense @ dense @ dense[0])


def test_infinities_are_refused():
    with pytest.raises(hesse.NonFiniteProductError, match="hold infinities or NaNs"):
        hesse.sparse_hessian(lambda x: (x**1.5).sum(), torch.zeros(3), np.eye(3, dtype=bool))


def test_an_operator_that_knows_no_function_asks_for_the_pattern():
    with pytest.raises(TypeError, match=r"no pattern of a Dense\. Give pattern="):
        hesse.as_operator(torch.eye(3)).to_sparse()
    torch.testing.assert_close(
        hesse.as_operator(torch.eye(3)).to_sparse(np.eye(3, dtype=bool)).to_dense(), torch.eye(3)
    )


def test_without_numba_the_extra_is_named(monkeypatch):
    import sys

    from hesse._sparse.compiled import compiled

    monkeypatch.setitem(sys.modules, "numba", None)
    compiled.cache_clear()
    with pytest.raises(ImportError, match=re.escape('Install "hesse[sparse]".')):
        hesse.sparse_hessian(rosenbrock, random(5), band(5))
    compiled.cache_clear()


def test_the_difference_names_the_worst_row():
    matrix = hesse.as_operator(torch.eye(3, dtype=torch.float64)).to_sparse(np.eye(3, dtype=bool))
    whole = torch.diag(torch.tensor([1.0, 1.0 + 1e-9, 2.0], dtype=torch.float64))
    vectors = random(2, 3)
    products = list(vectors @ whole)
    found = verification.difference(
        lambda rows: rows @ whole, lambda: 0.7 * matrix, matrix, vectors, products, torch.float64
    )
    assert found is not None
    assert found.row == 2


def test_entries_are_read_and_compared_in_several_threads(monkeypatch):
    from hesse._sparse import compiled

    monkeypatch.setattr(compiled, "_STEPS", 5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    x = random(50)
    torch.testing.assert_close(hesse.sparse_hessian(rosenbrock, x, band(50)).to_dense(), dense(rosenbrock, x))
    for place in (0, 25, 48):
        lacking = band(50).tolil()
        lacking[place, place + 1] = lacking[place + 1, place] = 0
        with pytest.raises(ValueError, match=rf"lacks an entry in row ({place}|{place + 1}):"):
            hesse.sparse_hessian(rosenbrock, x, lacking.tocsr() != 0)


def test_errors_of_sparse_hessian_name_it():
    with pytest.raises(TypeError, match=r"^The inputs given to sparse_hessian must be"):
        hesse.sparse_hessian(rosenbrock, [1, 2])
    with pytest.raises(RuntimeError, match=r"function given to sparse_hessian should"):
        hesse.sparse_hessian(lambda x: x * 2, random(3))
    with pytest.raises(ValueError, match=r"^The pattern given to sparse_hessian should have shape \(5, 5\)"):
        hesse.sparse_hessian(rosenbrock, random(5), band(4))
    with pytest.raises(ValueError, match=r"^The pattern given to sparse_hessian\(\) lacks an entry in row"):
        hesse.sparse_hessian(rosenbrock, random(5), np.eye(5, dtype=bool))
