"""The picture holds what is known, marks eigenvalues where they are, and can be drawn of anything."""

from __future__ import annotations

import numpy as np
import pytest

from hesse._report import picture

from .spectra import NETWORK, spectrum


def _marks(axes):
    return np.sort(np.concatenate([c.get_segments() for c in axes.collections if c.get_label() in MARKS])[:, 0, 0])


MARKS = ("eigenvalues", "not converged")


def test_eigenvalues_are_marked_where_they_are():
    found = spectrum()
    for axes in picture.draw(found).axes:
        expected = np.sort([pair.value for pair in found.top + found.bottom])
        assert np.allclose(_marks(axes), expected)


def test_the_second_panel_counts_every_eigenvalue():
    bars = picture.draw(spectrum()).axes[1].patches
    assert sum(bar.get_height() for bar in bars) == pytest.approx(len(NETWORK), rel=1e-3)


@pytest.mark.parametrize(
    "found",
    [
        spectrum(max_products=16),
        spectrum(parts=("trace",)),
        spectrum(parts=("trace", "eigenpairs")),
        spectrum([0.0] * 8),
        spectrum([2.0]),
        spectrum([-3.0] * 40),
        spectrum(np.linspace(1e6, 2e6, 50)),
        spectrum(np.geomspace(1e-12, 1e-8, 50)),
        spectrum(np.geomspace(1e-30, 1, 64)),
    ],
    ids=["cut short", "trace", "no density", "zero", "one", "negative", "large", "small", "wide"],
)
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.one_in(5)
def test_anything_can_be_drawn_without_a_warning(found, narrow):
    drawn = picture.to_bytes(picture.draw(found, picture.DARK, narrow=narrow), "png")
    assert drawn.startswith(b"\x89PNG")


def test_the_same_spectrum_gives_the_same_file():
    found = spectrum()
    assert picture.to_bytes(picture.draw(found), "svg") == picture.to_bytes(picture.draw(found), "svg")


def test_the_picture_in_words():
    assert picture.describe(spectrum()) == (
        "Spectral density of the Hessian of digits.py, from -0.3 to 110; the largest eigenvalue is 110."
    )
