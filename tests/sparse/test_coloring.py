"""Colorings of random graphs, checked against their definitions by trying all paths and rows."""

import itertools

import networkx
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hesse._sparse import kernels
from hesse._sparse.coloring import column_coloring, symmetric_coloring
from hesse._sparse.compiled import compiled
from hesse._sparse.plan import SparsePlan, gather, plan


def symmetric_pattern(n: int, edges: set[tuple[int, int]], diagonal: bool) -> scipy.sparse.csr_array:
    matrix = np.zeros((n, n), dtype=bool)
    for i, j in edges:
        matrix[i % n, j % n] = matrix[j % n, i % n] = True
    np.fill_diagonal(matrix, diagonal)
    return scipy.sparse.csr_array(matrix)


sizes = st.integers(1, 9)
edges = st.sets(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=25)
graphs = st.builds(symmetric_pattern, sizes, edges, st.booleans())


def is_star_coloring(pattern: scipy.sparse.csr_array, colors: np.ndarray) -> bool:
    """Neighbors differ, and no path of four vertices has two colors; by trying all."""
    graph = networkx.from_scipy_sparse_array(pattern)
    graph.remove_edges_from(list(networkx.selfloop_edges(graph)))
    paths = [(a, b, c, d) for b, c in graph.edges for a, d in itertools.product(graph[b], graph[c])]
    return all(colors[i] != colors[j] for i, j in graph.edges) and all(
        len({colors[vertex] for vertex in path}) > 2 for path in paths if len(set(path)) == 4
    )


@pytest.mark.parametrize("is_compiled", [False, True])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(pattern=graphs, random=st.randoms(use_true_random=False))
def test_star_colors_are_a_star_coloring_in_any_order(is_compiled, pattern, random):
    order = np.arange(pattern.shape[0], dtype=pattern.indices.dtype)
    random.shuffle(order)
    color = compiled(kernels.star_colors) if is_compiled else kernels.star_colors
    assert is_star_coloring(pattern, color(pattern.indptr, pattern.indices, order))


def test_a_coloring_that_is_none_is_found_out():
    path = symmetric_pattern(4, {(0, 1), (1, 2), (2, 3)}, True)
    assert is_star_coloring(path, np.array([0, 1, 0, 2]))
    assert not is_star_coloring(path, np.array([0, 1, 0, 1]))
    assert not is_star_coloring(path, np.array([0, 0, 1, 2]))


def entries(made: SparsePlan, matrix: np.ndarray) -> np.ndarray:
    """The matrix as its plan reads it, from products with the seeds, three at a time."""
    whole = torch.from_numpy(matrix)
    values = torch.full((len(made.sources),), torch.nan, dtype=torch.float64)
    expected = [whole @ vector for vector in made.vectors]
    agrees = True
    for start in range(0, made.num_colors, 3):
        seeds = made.seeds(start, min(start + 3, made.num_colors), torch.float64)
        products = (whole.T if made.transposed else whole) @ seeds.T
        agrees = made.read(products.T.flatten(), start, values, expected, 1e-14)
    assert agrees
    return made.matrix(values).to_dense().numpy()


def random_plan(pattern: scipy.sparse.csr_array, symmetric: bool) -> SparsePlan:
    return plan(pattern, None, symmetric=symmetric, dtype=torch.float64, device=torch.device("cpu"), room=None)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pattern=graphs, seed=st.integers(0, 2**31))
def test_entries_of_symmetric_matrices_are_read_back(pattern, seed):
    # Whole numbers: sums of them are exact.
    matrix = np.random.default_rng(seed).integers(-9, 9, pattern.shape).astype(float)
    matrix = (matrix + matrix.T) * pattern.toarray()
    found = entries(random_plan(pattern, True), matrix)
    np.testing.assert_array_equal(found, matrix)


rectangles = st.builds(
    lambda m, n, places: scipy.sparse.csr_array(
        np.array([[(i, j) in places for j in range(n)] for i in range(m)], dtype=bool).reshape(m, n)
    ),
    sizes,
    sizes,
    edges,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pattern=rectangles, seed=st.integers(0, 2**31))
def test_entries_of_rectangular_matrices_are_read_back(pattern, seed):
    matrix = np.random.default_rng(seed).integers(-9, 9, pattern.shape) * pattern.toarray().astype(float)
    np.testing.assert_array_equal(entries(random_plan(pattern, False), matrix), matrix)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(pattern=graphs)
def test_smallest_last_leaves_no_vertex_more_earlier_neighbors_than_the_graph_has_cores(pattern):
    order = compiled(kernels.smallest_last)(pattern.indptr, pattern.indices)
    assert sorted(order) == list(range(pattern.shape[0]))
    graph = networkx.from_scipy_sparse_array(pattern)
    graph.remove_edges_from(list(networkx.selfloop_edges(graph)))
    places = {int(vertex): place for place, vertex in enumerate(order)}
    earlier = [sum(places[j] < places[i] for j in graph[i]) for i in graph]
    assert max(earlier) <= max(networkx.core_number(graph).values())


def count(pattern: scipy.sparse.csr_array) -> int:
    return random_plan(scipy.sparse.csr_array(pattern, dtype=bool), True).num_colors


def band(n: int, width: int) -> scipy.sparse.csr_array:
    offsets = range(-width, width + 1)
    return scipy.sparse.diags_array([np.ones(n - abs(k)) for k in offsets], offsets=list(offsets), format="csr")


def test_known_graphs_take_as_many_colors_as_they_must():
    # Neighbors and their neighbors in a band differ; a star has a center and spokes.
    assert count(band(1000, 1)) == 3
    assert count(band(1000, 2)) == 5
    arrow = scipy.sparse.lil_array((1000, 1000))
    arrow[0, :] = arrow[:, 0] = 1
    arrow.setdiag(1)
    assert count(arrow) == 2
    assert count(scipy.sparse.eye_array(1000)) == 1
    assert count(scipy.sparse.csr_array((5, 5))) == 0
    assert count(scipy.sparse.csr_array(np.ones((7, 7)))) == 7


@pytest.mark.parametrize("side", [30, 40, 141])
def test_a_grid_takes_five_colors(side):
    line, same = band(side, 1), scipy.sparse.eye_array(side)
    assert count(scipy.sparse.kron(line, same) + scipy.sparse.kron(same, line)) == 5


def test_one_dense_row_of_a_jacobian_is_no_reason_for_a_product_a_column():
    pattern = scipy.sparse.lil_array((1001, 1000), dtype=bool)
    pattern[0, :] = True
    pattern[1:, :] = scipy.sparse.eye_array(1000, dtype=bool)
    coloring = column_coloring(pattern.tocsr())
    assert coloring.transposed
    assert coloring.colors.max() + 1 == 2


def test_two_dense_halves_have_a_color_for_each_column():
    coloring = symmetric_coloring(scipy.sparse.csr_array(np.ones((6, 6), dtype=bool)))
    assert sorted(coloring.colors) == list(range(6))


def test_products_are_gathered_on_accelerators_as_the_loop_reads_them():
    products = torch.arange(12.0)
    sources = torch.tensor([11, 0, 3, 7, 4, 4, 8], dtype=torch.int64)
    values = torch.full((7,), torch.nan)
    for first in (0, 4, 8):
        gather(sources, first, products[first : first + 4], values)
        is_read = sources < first + 4
        assert torch.equal(values[is_read], sources[is_read].to(values.dtype))
        assert bool(values[~is_read].isnan().all())
