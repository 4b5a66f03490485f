"""The picture holds what is known, marks eigenvalues where they are, and can be drawn of anything."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest

import hesse
from hesse._report import picture

from ..solvers.known_matrices import with_eigenvalues
from .spectra import NETWORK, spectrum

ordinary = functools.cache(spectrum)


def _marks(axes):
    return np.sort(np.concatenate([c.get_segments() for c in axes.collections if c.get_label() in MARKS])[:, 0, 0])


MARKS = ("eigenvalues", "not converged")


def test_eigenvalues_are_marked_where_they_are():
    found = ordinary()
    for axes in picture.draw(found).axes:
        expected = np.sort([pair.value for pair in found.top + found.bottom])
        assert np.allclose(_marks(axes), expected)


def test_the_second_panel_counts_every_eigenvalue():
    bars = picture.draw(ordinary()).axes[1].patches
    assert sum(bar.get_height() for bar in bars) == pytest.approx(len(NETWORK), rel=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_products": 16},
        {"parts": ("trace",)},
        {"parts": ("trace", "eigenpairs")},
        {"values": [0.0] * 8},
        {"values": [2.0]},
        {"values": [-3.0] * 40},
        {"values": np.linspace(1e6, 2e6, 50)},
        {"values": np.geomspace(1e-12, 1e-8, 50)},
        {"values": np.geomspace(1e-30, 1, 64)},
    ],
    ids=["cut short", "trace", "no density", "zero", "one", "negative", "large", "small", "wide"],
)
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.one_in(17)
def test_anything_can_be_drawn_without_a_warning(settings, narrow):
    drawn = picture.to_bytes(picture.draw(spectrum(**settings), picture.DARK, narrow=narrow), "png")
    assert drawn.startswith(b"\x89PNG")


def test_the_same_spectrum_gives_the_same_file():
    found = ordinary()
    assert picture.to_bytes(picture.draw(found), "svg") == picture.to_bytes(picture.draw(found), "svg")


def test_the_picture_in_words():
    assert picture.describe(ordinary()) == (
        "Spectral density of the Hessian of digits.py, from -0.3 to 110; the largest eigenvalue is 110."
    )


def test_a_probe_that_was_cut_short_adds_no_zero_to_the_words():
    values = np.linspace(1, 2, 300)
    words = {"num_probes": 4, "num_steps": 10, "rng": 0, "memory": 27 * 300 * 8}
    cut = hesse.spectral_density(with_eigenvalues(values), callback=lambda p: p.num_products >= 15, **words)
    assert len(cut.nodes) == 2
    found = re.search("from (.*) to (.*)[.]$", picture.describe(spectrum(values, parts=(), density=cut)))
    assert [float(word) for word in found.groups()] == pytest.approx([1, 2], abs=0.05)
