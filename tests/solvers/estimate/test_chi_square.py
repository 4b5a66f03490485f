"""The interval for means of samples that cannot be negative: coverage for χ² of many degrees, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hesse._solvers.estimate import chi_square, student


@pytest.mark.parametrize("degrees", [1, 2, 5, 50, 10**4])
@pytest.mark.parametrize("count", [4, 10, 40])
@pytest.mark.parametrize(("confidence", "lack"), [(0.8, 0.06), (0.95, 0.03)])
@pytest.mark.one_in(7)
def test_it_covers_the_mean_as_often_as_it_says(degrees, count, confidence, lack):
    samples = np.random.default_rng(0).chisquare(degrees, (count, 20000)) / degrees
    low, high = chi_square.interval(samples, confidence)
    covered = np.mean((low <= 1) & (high >= 1))
    # The t interval covers in 0.82 and 0.86 of cases, not 0.95, for one degree and four or ten samples.
    # Few samples do not tell these from one eigenvalue beside many small ones, which the next test is about.
    excess = {4: 0.08, 10: 0.04}.get(count, 0.03) if confidence < 0.9 else 0.03
    assert confidence - lack <= covered <= confidence + excess
    assert (low > 0).all()


@pytest.mark.parametrize("count", [4, 10, 40])
def test_it_covers_the_mean_where_one_eigenvalue_lies_beside_many_small_ones(count):
    generator = np.random.default_rng(0)
    samples = generator.chisquare(1, (count, 20000)) + generator.chisquare(150, (count, 20000)) / 150
    low, high = chi_square.interval(samples, 0.95)
    assert 0.91 <= np.mean((low <= 2) & (high >= 2)) <= 0.98


def test_one_degree_of_freedom_known_beforehand_is_the_exact_interval():
    # Samples as scattered as they can be: the bound on their scatter, the single square, takes hold.
    samples = np.array([[0.0], [0.0], [0.0], [4.0]])
    low, high = chi_square.interval(samples, 0.9)
    widened = 4 / (student.quantile(0.9, 4) / stats.norm.ppf(0.95)) ** 2
    assert low[0] == pytest.approx(widened / stats.chi2.ppf(0.95, widened))
    assert high[0] == pytest.approx(widened / stats.chi2.ppf(0.05, widened))


def test_equal_samples_are_exact_and_zeros_are_zero():
    low, high = chi_square.interval(np.array([[3.0, 0.0]] * 5), 0.95)
    assert low.tolist() == high.tolist() == [3.0, 0.0]
