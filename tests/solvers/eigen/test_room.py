"""Where the basis of ``eigsh`` is held, and what it takes: by the allocator's own events, and on two devices."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import hesse
from hesse._linearize import peak

from ..known_matrices import with_eigenvalues
from .elsewhere import ELSEWHERE, Far, There, TwoDevices

N = 20_000
VECTOR = 4 * N


class Diagonal(hesse.Operator):
    """A diagonal matrix of float32: a bulk, and outliers."""

    symmetric = True
    outliers = 1.2 ** np.arange(1, 21)

    def __init__(self):
        self.values = torch.cat([torch.linspace(0, 1, N - 20), torch.from_numpy(self.outliers).float()]).unsqueeze(-1)
        self.shape, self.dtype, self.device = (N, N), torch.float32, torch.device("cpu")

    def matmat(self, V):
        return self.values * V


def search(**words):
    found, taken = peak.during(lambda: hesse.eigsh(Diagonal(), 5, rng=1, **words), torch.device("cpu"))
    assert found.converged
    np.testing.assert_allclose(found.values, Diagonal.outliers[:-6:-1], rtol=1e-5)
    return found, taken


@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize("vectors", [48, 60, 100])
@pytest.mark.one_in(6)
def test_a_search_stays_within_its_memory(vectors, block_size):
    memory = (vectors + 5 * (block_size - 1)) * VECTOR
    found, taken = search(memory=memory, block_size=block_size, max_products=2000)
    # The operator's own product is beside it, and here it is as large as what comes of it.
    assert taken <= memory + block_size * VECTOR
    # And it is made use of.
    assert taken >= 0.5 * memory
    whole, most = search(max_products=2000, block_size=block_size)
    assert most > taken
    assert whole.num_products <= found.num_products


def test_less_memory_is_fewer_vectors_and_more_products():
    products = [search(memory=f"{size} MB", max_products=2000)[0].num_products for size in (100, 3, 2)]
    assert products == sorted(products)
    assert products[0] < products[-1]


def test_a_memory_too_small_for_the_smallest_basis_is_one_sentence_and_what_it_names_is_enough():
    with pytest.raises(hesse.MemoryBudgetError) as caught:
        hesse.eigsh(Diagonal(), 5, rng=0, memory="1 MiB")
    message = str(caught.value)
    found = re.fullmatch(
        r"eigsh needs ([\d.]+ MiB) for a basis of 7 vectors with their products and the answer, but memory allows 1 MiB"
        r" on cpu\. Raise memory, ask for fewer eigenvalues, or hold the basis elsewhere by basis_device\.",
        message,
    )
    assert found, message
    search(memory=str(float(found[1].split()[0]) + 0.01) + "MiB", max_products=5000)


def test_a_basis_size_that_memory_does_not_allow_is_refused_and_not_made_smaller():
    with pytest.raises(hesse.MemoryBudgetError, match="for a basis of 100 vectors with their products and the answer"):
        hesse.eigsh(Diagonal(), 5, rng=0, memory="5 MB", basis_size=100)
    assert search(memory="20 MB", basis_size=100)[0].converged


def test_a_size_that_is_none_is_refused():
    with pytest.raises(ValueError, match="memory should be a number of bytes or a size"):
        hesse.eigsh(torch.eye(4), 1, memory="much")


VALUES = np.concatenate([np.linspace(-1, 1, 150), [4.0, 4.0, 5.0, 7.0]])


@pytest.mark.parametrize("block_size", [1, 2])
@pytest.mark.parametrize("start", [False, True], ids=["", "warm"])
@pytest.mark.one_in(4)
def test_a_basis_on_another_device_than_the_operator_gives_the_same_digits(start, block_size):
    matrix = with_eigenvalues(VALUES)
    words = {"block_size": block_size, "basis_size": 20, "max_products": 1000, "rng": 0, "certify": True}
    if start:
        words["start"] = torch.ones(154, 2, dtype=torch.float64)
    expected = hesse.eigsh(matrix, 4, **words)
    devices = TwoDevices()
    with devices:
        if start:
            words["start"] = words["start"].to(ELSEWHERE)
        found = hesse.eigsh(Far(matrix), 4, basis_device="cpu", **words)
        assert isinstance(found.vectors, There)
        vectors = found.vectors.cpu()
    assert found.converged
    assert torch.equal(found.values, expected.values)
    assert torch.equal(vectors, expected.vectors)
    assert torch.equal(found.residuals, expected.residuals)
    assert found.num_products == expected.num_products
    np.testing.assert_allclose(found.values, [7, 5, 4, 4], rtol=1e-6)
    # One vector there and one back for each product; random and given vectors, and the answer, once.
    moved = sum(devices.copies) / 154
    made = found.num_products + found.num_certificate_products
    assert 2 * made <= moved <= 2 * made + 30


@pytest.mark.exhaustive
def test_a_basis_on_the_operators_own_device_moves_nothing():
    matrix = with_eigenvalues(VALUES)
    devices = TwoDevices()
    with devices:
        found = hesse.eigsh(Far(matrix), 4, rng=0)
        vectors = found.vectors.cpu()
    expected = hesse.eigsh(matrix, 4, rng=0)
    assert torch.equal(vectors, expected.vectors)
    # Beside coefficients only random vectors: the first one, and one for each look.
    assert sum(count % 154 == 0 for count in devices.copies[:-1]) <= 4
