"""``spectral_density`` against spectra known in advance: mass, moments, the smoothed density, breakdown, refusals."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import hesse
from hesse._linearize import peak
from hesse._operators.dense import Dense
from hesse._solvers.estimate.spectral_density import _band

from ..known_matrices import with_eigenvalues

SPREAD = np.concatenate([np.linspace(-1, 1, 180), 1.5 ** np.arange(1, 11)])


def smoothed(values, grid, sigma):
    bells = np.exp(-0.5 * ((grid[:, None] - values) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    return bells.mean(axis=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_mass_is_one_and_moments_are_within_their_interval(dtype):
    rho = hesse.spectral_density(with_eigenvalues(SPREAD, dtype), num_steps=18, confidence=0.999, rng=0)
    assert rho.converged
    assert not rho.exact
    assert rho.num_products == 180
    assert np.isclose(np.trapezoid(rho.density, rho.grid), 1, atol=1e-6)
    assert torch.allclose(rho.weights.sum(dim=1), torch.ones(10, dtype=torch.float64))
    for power in range(7):
        estimate, (low, high) = rho.moment(power)
        truth = (SPREAD**power).mean()
        rounding = 1e-5 * (abs(SPREAD) ** power).mean()
        assert low - rounding <= truth <= high + rounding
        assert low <= estimate <= high
    assert rho.moment(0)[0] == pytest.approx(1)


def larger(bulk):
    """An operator of which only a part of the eigenvalues can be had by the products asked for, and its spectrum."""
    values = np.concatenate([np.linspace(-1, 1, bulk), 1.5 ** np.arange(1, 11)])
    return with_eigenvalues(values), values


def test_the_density_is_the_smoothed_spectrum():
    A, values = larger(790)
    rho = hesse.spectral_density(A, num_probes=12, num_steps=60, sigma=1.0, rng=0)
    assert not rho.exact
    truth = smoothed(values, rho.grid.numpy(), 1.0)
    assert np.abs(rho.density.numpy() - truth).max() <= 0.05 * truth.max()


@pytest.mark.parametrize(
    ("bulk", "num_probes", "num_steps", "confidence", "seeds"),
    [
        (180, 4, 40, 0.95, 12),
        pytest.param(180, 4, 40, 0.95, 40, marks=pytest.mark.exhaustive),
        pytest.param(180, 10, 18, 0.95, 80, marks=pytest.mark.exhaustive),
        pytest.param(1980, 40, 45, 0.99, 80, marks=pytest.mark.exhaustive),
    ],
)
def test_the_band_covers_point_by_point_as_often_as_it_says(bulk, num_probes, num_steps, confidence, seeds):
    # In the bulk, at its edge, and at lone eigenvalues, whose samples are a single squared normal number, and skewed.
    A, values = larger(bulk)
    places = np.array([-0.9, -0.5, 0.0, 0.5, 1.5**4, 1.5**7, 1.5**8, 1.5**9, 1.5**10])
    words = {"num_probes": num_probes, "num_steps": num_steps, "sigma": 1.0, "confidence": confidence}
    hits = []
    for seed in range(seeds):
        rho = hesse.spectral_density(A, rng=seed, **words)
        near = [int((rho.grid - place).abs().argmin()) for place in places]
        truth = smoothed(values, rho.grid[near].numpy(), 1.0)
        hits.append((rho.low[near].numpy() <= truth) & (truth <= rho.high[near].numpy()))
    assert not rho.exact
    # Chance alone would let the mean of one place vary by this much, three times over in the worst of nine.
    chance = np.sqrt(confidence * (1 - confidence) / seeds)
    assert np.mean(hits) >= confidence - chance
    # At that rate fewer than 9 of 12 are, at one of nine places at least, in 2 % of all cases.
    assert np.mean(hits, axis=0).min() >= confidence - (3 if seeds > 12 else 4) * chance
    assert np.mean(hits) <= confidence + 3 * chance


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("num_probes", [4, 10, 20])
def test_the_interval_of_a_moment_of_an_indefinite_operator_covers_as_often_as_it_says(num_probes, sign):
    # One large eigenvalue beside small ones of the other sign: squares of normal numbers less a little. By Student's t
    # alone 82 of 100 were covered with four probes, 86 with ten and 90 with twenty.
    squares = torch.from_numpy(np.random.default_rng(0).standard_normal((num_probes, 10_000)) ** 2)
    low, high = _band(sign * (squares - 0.1), 0.95)
    assert float(((low <= sign * 0.9) & (sign * 0.9 <= high)).double().mean()) >= 0.93


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "values",
    [
        SPREAD,
        np.concatenate([np.zeros(17), np.linspace(0.5, 4, 83)]),
        np.concatenate([np.zeros(100), np.repeat([-3.0, 1.0, 2.0], [40, 30, 25]), np.linspace(2, 3, 5)]),
    ],
    ids=["spread", "seventeen zeros", "multiple"],
)
@pytest.mark.one_in(4)
def test_as_many_products_as_eigenvalues_give_them_all_and_the_density_exactly(values, dtype):
    n = len(values)
    rho = hesse.spectral_density(with_eigenvalues(values, dtype), num_probes=4, num_steps=n // 3, sigma=0.5, rng=0)
    assert rho.exact
    assert rho.converged
    assert rho.num_products == n
    rounding = 100 * torch.finfo(dtype).eps * np.abs(values).max()
    # Every eigenvalue as often as it is there, so that a bar over the zeros has their number for its height.
    assert np.abs(rho.nodes[rho.weights > 0].sort().values.numpy() - np.sort(values)).max() <= rounding
    assert torch.allclose(rho.weights[rho.weights > 0], torch.tensor(1 / n, dtype=torch.float64))
    truth = smoothed(values, rho.grid.numpy(), 0.5)
    assert np.abs(rho.density.numpy() - truth).max() <= 10 * rounding
    assert torch.equal(rho.low, rho.density)
    assert torch.equal(rho.high, rho.density)
    # Files hold no tensor twice.
    tensors = (rho.grid, rho.density, rho.low, rho.high, rho.nodes, rho.weights)
    assert len({each.untyped_storage().data_ptr() for each in tensors}) == 6
    estimate, interval = rho.moment(2)
    assert interval == (estimate, estimate)
    assert estimate == pytest.approx((values**2).mean(), rel=1e-5)


def test_few_distinct_eigenvalues_end_a_probe_early_and_exactly():
    values = np.array([1.0] * 30 + [2.0] * 20)
    rho = hesse.spectral_density(with_eigenvalues(values), rng=0, num_probes=3)
    assert rho.converged
    assert rho.num_products == 6
    for nodes, weights in zip(rho.nodes, rho.weights, strict=True):
        assert np.allclose(nodes[weights > 0], [1, 2])
        assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("matrix", [torch.zeros(4, 4), 3 * torch.eye(5), torch.tensor([[2.0]])], ids=str)
def test_a_spectrum_that_is_one_point_has_a_density_around_it(matrix):
    rho = hesse.spectral_density(matrix, rng=0)
    assert np.trapezoid(rho.density, rho.grid) == pytest.approx(1, abs=1e-6)
    assert rho.moment(1)[0] == pytest.approx(float(matrix[0, 0]))


def test_probes_that_do_not_fit_side_by_side_go_one_by_one():
    widths = []

    class Watched(Dense):
        def matmat(self, V):
            widths.append(V.shape[1])
            return super().matmat(V)

    A = Watched(with_eigenvalues(SPREAD))
    together = hesse.spectral_density(A, num_probes=3, num_steps=10, rng=0)
    assert set(widths) == {3}
    widths.clear()
    # Room for the bases of one probe, of ten vectors and what passes, and not for those of two.
    apart = hesse.spectral_density(A, num_probes=3, num_steps=10, rng=0, memory=27 * 190 * 8)
    assert apart.reorthogonalized
    assert set(widths) == {1}
    assert apart.nodes.shape == together.nodes.shape
    # Different probes, the same spectrum.
    for rho in (together, apart):
        _, (low, high) = rho.moment(1)
        assert low <= SPREAD.mean() <= high


def test_a_callback_stops_it_with_what_is_known():
    rho = hesse.spectral_density(
        with_eigenvalues(SPREAD), num_probes=4, num_steps=20, rng=0, callback=lambda p: p.num_products >= 20
    )
    assert not rho.converged
    assert rho.num_products == 20
    assert np.trapezoid(rho.density, rho.grid) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"num_probes": 1}, "num_probes given to spectral_density should be at least 2 but is 1."),
        ({"num_steps": 0}, "num_steps given to spectral_density should be at least 1 but is 0."),
        ({"sigma": 0.0}, "sigma given to spectral_density should be greater than 0 but is 0.0."),
        ({"confidence": 0.0}, "confidence given to spectral_density should be between 0 and 1 but is 0.0."),
    ],
)
def test_what_makes_no_sense_is_one_sentence(words, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hesse.spectral_density(torch.eye(4), **words)


def test_a_width_that_no_grid_can_show_is_refused():
    with pytest.raises(ValueError, match=r"sigma given to spectral_density should be at least 0\.00018 for a spectrum"):
        hesse.spectral_density(torch.diag(torch.linspace(-1.0, 1.2, 40)), sigma=1e-5, rng=0)


def test_operators_that_have_no_real_spectrum_are_refused():
    with pytest.raises(ValueError, match="spectral_density needs a symmetric operator"):
        hesse.spectral_density(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="size at least 1"):
        hesse.spectral_density(torch.empty(0, 0))


def test_probes_that_have_ended_take_no_memory_any_more():
    class Diagonal(hesse.Operator):
        symmetric = True
        shape, dtype, device = (50_000, 50_000), torch.float32, torch.device("cpu")
        values = torch.linspace(-1, 1, 50_000).unsqueeze(-1)

        def matmat(self, V):
            return self.values * V

    # Room for the basis of one probe.
    words = {"num_steps": 10, "rng": 0, "memory": 20 * 4 * 50_000}
    taken = [
        peak.during(lambda k=k: hesse.spectral_density(Diagonal(), num_probes=k, **words), Diagonal.device)[1]
        for k in (2, 8)
    ]
    assert taken[1] < 1.2 * taken[0]


def test_without_a_basis_copies_share_a_weight_and_moments_are_right():
    # Outliers converge in a few steps, and then vectors lose their orthogonality.
    values = np.concatenate([np.linspace(-1, 1, 380), 2.0 ** np.arange(1, 21)])
    A = with_eigenvalues(values)
    words = {"num_probes": 4, "num_steps": 60, "rng": 0, "memory": 5 * 400 * 8}
    rho = hesse.spectral_density(A, **words)
    assert not rho.reorthogonalized
    assert rho.converged
    nodes, weights = rho.nodes[0], rho.weights[0]
    # The largest eigenvalue is there more than once, and its nodes have its weight together.
    near = (nodes - 2.0**20).abs() < 1e-6 * 2.0**20
    assert int((near & (weights > 0)).sum()) > 1
    whole = hesse.spectral_density(A, **{**words, "memory": None})
    assert whole.reorthogonalized
    top = (whole.nodes[0] - 2.0**20).abs() < 1e-6 * 2.0**20
    # The first probe is the first vector of the seed in both.
    z = hesse.as_operator(A).signs(1, np.random.default_rng(0)).squeeze(-1)
    exact, vectors = torch.linalg.eigh(A)
    shares = (vectors.mT @ z) ** 2 / 400
    for power in range(8):
        expected = float((shares * (exact / 2.0**20) ** power).sum())
        assert float((weights * (nodes / 2.0**20) ** power).sum()) == pytest.approx(expected, rel=1e-9)
    for share in (weights[near].sum(), whole.weights[0][top].sum()):
        assert float(share) == pytest.approx(float(shares[-1]), rel=1e-9)


def test_a_probe_without_a_basis_goes_on_from_its_checkpoint_with_the_same_digits(tmp_path):
    A = with_eigenvalues(SPREAD)
    words = {"num_probes": 3, "num_steps": 20, "rng": 0, "memory": 5 * 190 * 8}
    expected = hesse.spectral_density(A, **words)
    path = hesse.Checkpoint(tmp_path / "state", seconds=0)
    hesse.spectral_density(A, **words, checkpoint=path, callback=lambda p: p.num_products == 27)
    found = hesse.spectral_density(A, **words, checkpoint=path)
    assert torch.equal(found.nodes, expected.nodes)
    assert torch.equal(found.weights, expected.weights)


@pytest.mark.parametrize("seed", [33, 91, 137])
def test_rounding_that_drops_for_ever_ends(seed: int) -> None:
    density = hesse.spectral_density(torch.eye(3), rng=seed)
    torch.testing.assert_close(density.nodes, torch.ones_like(density.nodes))
