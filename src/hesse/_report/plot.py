"""``plot``: a spectral density as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hesse._base import checks
from hesse._solvers.estimate.spectral_density import SpectralDensity

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot(density: SpectralDensity, *, ax: Axes | None = None) -> Axes:
    """Draw a spectral density with its band, on a logarithmic scale. Needs matplotlib.

    Args:
        density: what ``hesse.spectral_density`` found.
        ax: matplotlib axes to draw into; those of pyplot when left out.

    Returns:
        The axes, to be labelled or saved: ``hesse.plot(density).figure.savefig("density.png")``.

    Raises:
        TypeError: ``density`` is no spectral density.
        ImportError: matplotlib is not installed.

    Example:
        >>> import matplotlib, torch, hesse
        >>> matplotlib.use("agg")
        >>> H = hesse.Hessian(lambda x: (x**4).sum() / 12, torch.linspace(1, 2, 50))
        >>> hesse.plot(hesse.spectral_density(H, rng=0)).get_xlabel()
        'eigenvalue λ'
    """
    if not isinstance(density, SpectralDensity):
        raise TypeError(f"plot draws what hesse.spectral_density has found but got {type(density)}.")
    try:
        # Only here: matplotlib is slow to load, and may be missing.
        from matplotlib import pyplot

        from hesse._report.picture import draw_density
    except ImportError as error:
        raise ImportError("hesse.plot needs matplotlib. Install it with: pip install matplotlib") from error
    if ax is None:
        ax = pyplot.gca()
    if not hasattr(ax, "plot"):
        raise TypeError(f"ax given to plot should be axes of matplotlib but is {checks.shown(ax)}.")
    draw_density(ax, density)
    ax.set_xlabel("eigenvalue λ")
    ax.set_ylabel("density (log scale)")
    ax.legend()
    return ax
