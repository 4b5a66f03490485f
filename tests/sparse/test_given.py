"""What counts as a pattern, and one sentence for what does not."""

import numpy as np
import pytest
import scipy.sparse
import torch

from hesse._sparse.given import given_pattern

DENSE = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]], dtype=bool)
ENTRIES = np.array(DENSE.nonzero())


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(DENSE, id="array"),
        pytest.param(torch.from_numpy(DENSE), id="tensor"),
        pytest.param(torch.from_numpy(DENSE).double().to_sparse(), id="coo tensor"),
        *[
            pytest.param(getattr(scipy.sparse, f"{layout}_array")(DENSE.astype(float)), id=layout)
            for layout in ("csr", "csc", "coo", "dia", "lil", "dok", "bsr")
        ],
        pytest.param(scipy.sparse.csr_matrix(DENSE), id="csr_matrix"),
        pytest.param(
            scipy.sparse.coo_array((np.zeros(8), np.concatenate([ENTRIES, ENTRIES[:, ::-1]], axis=1))),
            id="zeros and entries twice",
        ),
        pytest.param(
            scipy.sparse.csr_array((np.ones(4), np.array([1, 0, 0, 2]), np.array([0, 2, 3, 4])), shape=(3, 3)),
            id="columns out of order",
        ),
    ],
)
def test_every_kind_of_matrix_gives_the_same_pattern(pattern):
    before = pattern.copy() if scipy.sparse.issparse(pattern) else None
    found = given_pattern(pattern, (3, 3), symmetric=True)
    np.testing.assert_array_equal(found.toarray(), DENSE)
    assert found.has_canonical_format
    if before is not None and pattern.format == "csr":
        np.testing.assert_array_equal(before.indices, pattern.indices)


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta")
@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_csc])
def test_a_compressed_sparse_tensor_is_a_pattern(layout):
    starts, columns = torch.tensor([0, 2, 3, 4]), torch.tensor([0, 1, 0, 2])
    pattern = torch.sparse_compressed_tensor(
        starts, columns, torch.zeros(4), (3, 3), layout=layout, check_invariants=True
    )
    np.testing.assert_array_equal(given_pattern(pattern, (3, 3), symmetric=True).toarray(), DENSE)


@pytest.mark.parametrize("edges", [np.array([[0], [1]]), torch.tensor([[0, 0], [1, 1]], dtype=torch.int32)])
def test_edges_of_a_graph_are_completed_by_their_mirror_image_and_the_diagonal(edges):
    expected = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    np.testing.assert_array_equal(given_pattern(edges, (3, 3), symmetric=True).toarray(), expected)


def test_entries_of_a_jacobian_are_taken_as_they_are():
    found = given_pattern(np.array([[0, 1], [3, 2]]), (2, 4), symmetric=False)
    np.testing.assert_array_equal(found.toarray(), [[0, 0, 0, 1], [0, 0, 1, 0]])


def test_no_entries_are_a_pattern():
    assert given_pattern(np.empty((2, 0), dtype=int), (2, 4), symmetric=False).nnz == 0
    assert given_pattern(scipy.sparse.csr_array((3, 3)), (3, 3), symmetric=True).nnz == 0


@pytest.mark.parametrize(
    ("pattern", "error", "sentence"),
    [
        (scipy.sparse.eye_array(4), ValueError, r"should have shape \(3, 3\) but has \(4, 4\)"),
        (torch.eye(4).to_sparse(), ValueError, r"should have shape \(3, 3\) but has \(4, 4\)"),
        (torch.ones(3, 3, 2).to_sparse(2), ValueError, r"should have shape \(3, 3\) but has \(3, 3, 2\)"),
        (scipy.sparse.coo_array(np.ones(3)), ValueError, r"should have shape \(3, 3\) but has \(3,\)"),
        (np.triu(np.ones((3, 3), dtype=bool)), ValueError, r"symmetric but holds \(0, 1\) without \(1, 0\)"),
        (np.eye(3), TypeError, "float64 of shape.*give matrix != 0"),
        (np.ones((3, 2), dtype=int), TypeError, r"int64 of shape \(3, 2\)"),
        ([[0, 1]], TypeError, "is <class 'list'>"),
        (np.array([[0, 3], [1, 1]]), ValueError, "rows of the pattern .* from 0 to 2 but go from 0 to 3"),
        (np.array([[0, 1], [1, -1]]), ValueError, "columns of the pattern .* from 0 to 2 but go from -1 to 1"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern, error, sentence):
    with pytest.raises(error, match=sentence):
        given_pattern(pattern, (3, 3), symmetric=True)


def test_places_beyond_int32_are_kept():
    n = 2**31 + 5
    matrix = scipy.sparse.coo_array((np.ones(2), ([0, 1], [n - 1, 3])), shape=(2, n))
    found = given_pattern(matrix, (2, n), symmetric=False)
    assert found.indices.dtype == np.int64
    assert found.indices.tolist() == [n - 1, 3]
