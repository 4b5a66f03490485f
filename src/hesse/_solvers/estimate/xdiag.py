"""XDiag: the diagonal by a basis of the range, each random vector in turn serving as the probe of what it misses."""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._solvers import columns as blocks
from hesse._solvers.estimate.range_finder import RangeFinder


def xdiag(finder: RangeFinder, probes: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    r"""The diagonal of a symmetric operator (n,), and what each entry's error is estimated to be (n,).

    With Q_i an orthonormal basis of A·Ω, vector i left out, the estimate is the mean over i of

    .. math:: \mathrm{diag}(Q_i Q_i^\top A) + \omega_i \circ (I - Q_i Q_i^\top) A \omega_i

    for random signs ω, all of them from Q and A·Q: :math:`Q_i Q_i^\top = Q (I - s_i s_i^\top) Q^\top`, and what of
    :math:`A \omega_i` that misses lies along :math:`Q s_i`.

    Args:
        finder: Q, from the images of the probes.
        probes: ω as columns (n, k).
        images: A·Q as columns (n, k).

    Source: Epperly, Tropp and Webber, "XTrace: making the most of every sample in stochastic trace estimation", SIAM J.
    Matrix Anal. Appl. 45 (2024) 1–23, section 2.4.
    """
    whole = (finder.basis * images).sum(dim=1)
    if finder.exhausted or finder.size == len(whole):
        return whole, torch.zeros_like(whole)
    lone, distances = finder.leave_one_out()
    along = finder.basis @ blocks.like(lone, probes)
    changes = probes * along * blocks.like(distances, probes) - along * (images @ blocks.like(lone, probes))
    errors = changes.std(dim=1) / finder.size**0.5 if finder.size > 1 else torch.full_like(whole, torch.inf)
    return whole + changes.mean(dim=1), errors
