"""Probe vectors: their law, and that they hang on seed, column and index alone."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

import hesse
from hesse._operators import probes

ARGUMENTS = {"dtype": torch.float64, "device": torch.device("cpu")}


def test_normal_probes_are_normal_and_signs_are_fair() -> None:
    normal = probes.randn(20_000, 2, 0, **ARGUMENTS)
    assert normal.shape == (20_000, 2)
    for column in normal.mT:
        assert scipy.stats.kstest(column.numpy(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(normal.numpy().T)[0, 1]) < 0.03
    signs = probes.signs(20_000, 2, 0, **ARGUMENTS)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert (signs.mean(0).abs() < 0.03).all()


def test_an_element_depends_on_seed_column_and_index_alone() -> None:
    for draw in (probes.randn, probes.signs):
        whole = draw(100, 5, 3, **ARGUMENTS)
        torch.testing.assert_close(draw(10, 5, 3, **ARGUMENTS), whole[:10], rtol=0, atol=0)
        torch.testing.assert_close(draw(100, 2, 3, **ARGUMENTS), whole[:, :2], rtol=0, atol=0)
        assert not torch.equal(draw(100, 5, 4, **ARGUMENTS), whole)


def test_a_seed_repeats_and_a_generator_goes_on() -> None:
    H = hesse.as_operator(torch.eye(50))
    torch.testing.assert_close(H.randn(2, rng=1), H.randn(2, rng=1), rtol=0, atol=0)
    generator = np.random.default_rng(1)
    assert not torch.equal(H.signs(2, rng=generator), H.signs(2, rng=generator))
    assert not torch.equal(H.randn(2), H.randn(2))
    assert H.randn(0, rng=1).shape == (50, 0)


@pytest.mark.parametrize(("k", "message"), [(-1, "at least 0 but is -1"), (1.5, "a whole number but is 1.5")])
def test_a_number_of_probes_that_is_none_is_refused(k: float, message: str) -> None:
    A = hesse.as_operator(torch.eye(3))
    with pytest.raises((TypeError, ValueError), match=f"k given to randn should be {message}"):
        A.randn(k)  # type: ignore[arg-type]  # the wrong type is the point
