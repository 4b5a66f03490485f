"""``plot`` draws a density into matplotlib's axes, and is one sentence without matplotlib."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot

import hesse


@pytest.fixture(autouse=True)
def without_a_screen() -> Iterator[None]:
    matplotlib.use("agg")
    yield
    pyplot.close("all")


def density(scale: float = 1.0) -> hesse.SpectralDensity:
    return hesse.spectral_density(scale * torch.diag(torch.linspace(-1, 2, 300)), rng=0, num_probes=4, num_steps=20)


def test_the_line_is_the_density_and_the_band_is_around_it() -> None:
    found = density()
    axes = hesse.plot(found)
    assert axes is pyplot.gca()
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), found.grid.numpy())
    drawn = ~np.isnan(line.get_ydata())
    np.testing.assert_array_equal(line.get_ydata()[drawn], found.density.numpy()[drawn])
    # What is left out is less than a tenth of one eigenvalue's peak.
    assert found.density.numpy()[~drawn].max() <= 0.1 / (300 * found.sigma * np.sqrt(2 * np.pi))
    (band,) = axes.collections
    assert band.get_label() == "95% band"
    edges = np.concatenate([path.vertices[:, 1] for path in band.get_paths()])
    assert edges.max() == pytest.approx(float(found.high.max()))
    assert axes.get_yscale() == "log"


def test_a_second_density_has_a_color_of_its_own_and_both_are_seen() -> None:
    _, axes = pyplot.subplots()
    first, second = density(), density(10.0)
    assert hesse.plot(first, ax=axes) is hesse.plot(second, ax=axes)
    one, other = axes.lines
    assert one.get_color() != other.get_color()
    low, high = axes.get_ylim()
    assert low < float(second.density.max()) < float(first.density.max()) < high


def test_what_is_no_density_is_refused() -> None:
    with pytest.raises(TypeError, match=r"plot draws what hesse\.spectral_density has found but got"):
        hesse.plot(hesse.trace(torch.eye(3)))  # type: ignore[arg-type]  # the wrong type is the point
    with pytest.raises(TypeError, match="ax given to plot should be axes of matplotlib but is 3"):
        hesse.plot(hesse.spectral_density(torch.eye(3)), ax=3)  # type: ignore[arg-type]  # the wrong type is the point
