"""The picture of a spectrum: its density, and how many eigenvalues there are of each magnitude."""

from __future__ import annotations

import dataclasses
import io
import math
import re
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from hesse._report.spectrum import Spectrum
from hesse._solvers.estimate.spectral_density import SpectralDensity

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclasses.dataclass(frozen=True)
class Colors:
    """The colors of one appearance."""

    paper: str
    ink: str
    faint: str
    density: str
    eigenvalue: str


LIGHT = Colors(paper="#ffffff", ink="#1c2530", faint="#d9dfe5", density="#2a62a8", eigenvalue="#c2410c")
DARK = Colors(paper="#14181d", ink="#dfe5ec", faint="#333c46", density="#7fb2f0", eigenvalue="#fb923c")

# Bins of the second panel: so many for each factor of ten.
_BINS_PER_DECADE = 3
# Magnitudes below this share of the largest count as zero.
_ZERO = 1e-4


def draw(spectrum: Spectrum, colors: Colors = LIGHT, *, narrow: bool = False) -> Figure:
    """The figure: panels side by side, or one above the other where there is little width."""
    settings: Any = {
        "font.family": "sans-serif",
        "font.size": 9.5,
        "text.color": colors.ink,
        "axes.labelcolor": colors.ink,
        "axes.edgecolor": colors.ink,
        "axes.facecolor": colors.paper,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": colors.ink,
        "ytick.color": colors.ink,
        "figure.facecolor": colors.paper,
        "savefig.facecolor": colors.paper,
        "legend.frameon": False,
    }
    with rc_context(settings):
        figure = Figure(figsize=(4.4, 6.8) if narrow else (10.4, 4.0))
        first, second = figure.subplots(2, 1) if narrow else figure.subplots(1, 2)
        _density(first, spectrum, colors)
        _magnitudes(second, spectrum, colors)
        # Text is laid out while these settings hold, and once: an engine of the figure's own would run in each draw.
        ConstrainedLayoutEngine().execute(figure)
    return figure


def to_bytes(figure: Figure, form: str) -> bytes:
    """The figure as a file: ``"png"`` or ``"svg"``."""
    buffer = io.BytesIO()
    # No date and fixed identifiers: the same spectrum gives the same file.
    with rc_context({"svg.hashsalt": "hesse"}):
        figure.savefig(buffer, format=form, dpi=160, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()


def recolored(svg: bytes, colors: Colors) -> bytes:
    """A light picture in other colors, without another layout."""
    new = dict(zip(dataclasses.astuple(LIGHT), dataclasses.astuple(colors), strict=True))
    return re.sub(b"#[0-9a-f]{6}", lambda found: new.get(found[0].decode(), found[0].decode()).encode(), svg)


def describe(spectrum: Spectrum) -> str:
    """The picture in words, for those who cannot see it."""
    words = f"Spectral density of the Hessian of {spectrum.problem}"
    if spectrum.density is not None:
        nodes = _nodes(spectrum.density)
        words += f", from {nodes.min():.3g} to {nodes.max():.3g}"
    if spectrum.top:
        at_least = "" if spectrum.top[0].converged else "at least "
        words += f"; the largest eigenvalue is {at_least}{spectrum.top[0].value:.4g}"
    return words + "."


def _label(axes: Axes, title: str, horizontal: str, vertical: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5)
    axes.set(xlabel=horizontal, ylabel=vertical, axisbelow=True)


def _density(axes: Axes, spectrum: Spectrum, colors: Colors) -> None:
    _label(axes, "Density of eigenvalues", "eigenvalue λ", "density (log scale)")
    axes.grid(color=colors.faint, linewidth=0.6)
    if spectrum.density is not None:
        draw_density(axes, spectrum.density, colors.density)
    _mark(axes, spectrum, colors)


def draw_density(axes: Axes, density: SpectralDensity, color: str | None = None) -> None:
    """The smoothed density with its band, in the axes' next color if none is given."""
    # Below a tenth of what one eigenvalue alone contributes at its peak there is nothing to see.
    floor = 0.1 / (density.size * density.sigma * math.sqrt(2 * math.pi))
    limits = [floor, 2.5 * float(density.density.max())]
    if axes.lines:
        limits = [min(floor, axes.get_ylim()[0]), max(limits[1], axes.get_ylim()[1])]
    grid = density.grid.numpy()
    low, high = density.low.clamp(min=floor).numpy(), density.high.clamp(min=floor).numpy()
    line = density.density.numpy().copy()
    line[line < floor] = np.nan
    axes.set_yscale("log")
    axes.set_ylim(*limits)
    (drawn,) = axes.plot(grid, line, color=color, linewidth=1.4, label="density")
    if len(density.nodes) > 1:
        axes.fill_between(
            grid,
            low,
            high,
            where=high > floor,
            color=drawn.get_color(),
            alpha=0.25,
            linewidth=0,
            label=f"{density.confidence:.0%} band",
        )


def _mark(axes: Axes, spectrum: Spectrum, colors: Colors) -> None:
    """Eigenvalues as ticks on the lower edge: long where they have converged."""
    for pairs, height, label in (
        ([pair for pair in spectrum.top + spectrum.bottom if pair.converged], 0.07, "eigenvalues"),
        ([pair for pair in spectrum.top + spectrum.bottom if not pair.converged], 0.035, "not converged"),
    ):
        if pairs:
            axes.vlines(
                [pair.value for pair in pairs],
                0,
                height,
                transform=axes.get_xaxis_transform(),
                color=colors.eigenvalue,
                linewidth=1.2,
                label=label,
            )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", fontsize=8.5)


def _magnitudes(axes: Axes, spectrum: Spectrum, colors: Colors) -> None:
    horizontal = "eigenvalue λ (logarithmic to both sides of zero)"
    _label(axes, "How many eigenvalues of which size", horizontal, "eigenvalues (estimate)")
    axes.grid(color=colors.faint, linewidth=0.6, axis="y")
    largest = _largest(spectrum)
    if not largest:
        return
    threshold = _ZERO * largest
    if spectrum.density is not None:
        edges = _edges(spectrum.density, threshold)
        counts, _ = np.histogram(
            spectrum.density.nodes.numpy().ravel(), bins=edges, weights=spectrum.density.weights.numpy().ravel()
        )
        counts *= spectrum.size / len(spectrum.density.nodes)
        axes.bar(
            edges[:-1],
            counts,
            np.diff(edges),
            align="edge",
            color=colors.density,
            edgecolor=colors.paper,
            linewidth=0.5,
        )
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5, top=2.5 * max(1.0, float(counts.max())))
    axes.set_xscale("symlog", linthresh=threshold, linscale=0.6)
    ends = [pair.value for pair in spectrum.top + spectrum.bottom]
    if spectrum.density is not None:
        ends += [edges[0], edges[-1]]
    axes.set_xlim(min(ends) * (1.6 if min(ends) < 0 else 0.6), max(ends) * (1.6 if max(ends) > 0 else 0.6))
    axes.xaxis.set_minor_locator(MaxNLocator(1))
    _thin_ticks(axes, threshold, largest)
    _mark(axes, spectrum, colors)


def _largest(spectrum: Spectrum) -> float:
    values = [abs(pair.value) for pair in spectrum.top + spectrum.bottom]
    if spectrum.density is not None:
        values.append(float(spectrum.density.nodes.abs().max()))
    return max(values, default=0.0)


def _nodes(density: SpectralDensity) -> Vector:
    """The nodes of all probes, without what fills the row of one that ended early."""
    return density.nodes[density.weights > 0].numpy()


def _edges(density: SpectralDensity, threshold: float) -> Vector:
    """Bins that grow by a constant factor to both sides of one around zero."""
    found = _nodes(density)
    factor = 10 ** (1 / _BINS_PER_DECADE)

    def side(farthest: float) -> list[float]:
        edges = [threshold]
        while edges[-1] <= farthest:
            edges.append(edges[-1] * factor)
        return edges

    return np.array([*(-edge for edge in reversed(side(-float(found.min())))), *side(float(found.max()))])


def _thin_ticks(axes: Axes, threshold: float, largest: float) -> None:
    """Powers of ten to both sides, every second one where there are many, and zero."""
    powers = range(math.ceil(math.log10(threshold)), math.floor(math.log10(largest)) + 1)
    chosen = list(powers)[::-1][:: 2 if len(powers) > 5 else 1]
    low, high = axes.get_xlim()
    ticks = [0.0, *(10.0**power for power in chosen), *(-(10.0**power) for power in chosen)]
    ticks = sorted(tick for tick in ticks if low <= tick <= high)
    axes.set_xticks(ticks, [_power(tick) for tick in ticks])


def _power(tick: float) -> str:
    if tick == 0:
        return "0"
    sign = "−" if tick < 0 else ""
    exponent = round(math.log10(abs(tick)))
    return f"{sign}{abs(tick):g}" if -2 <= exponent <= 2 else f"${sign}10^{{{exponent}}}$"
