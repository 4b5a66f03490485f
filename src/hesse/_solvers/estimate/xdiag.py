"""XDiag: the diagonal by a basis of the range, each random vector in turn serving as the probe of what it misses."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesse._solvers import columns as blocks
from hesse._solvers.estimate.range_finder import RangeFinder


def xdiag(finder: RangeFinder, probes: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    r"""The diagonal of a symmetric operator (n,), and the standard error that each entry is estimated to have (n,).

    With Q_i an orthonormal basis of A·Ω, vector i left out, the estimate is the mean over i of

    .. math:: \mathrm{diag}(Q_i Q_i^\top A) + \omega_i \circ (I - Q_i Q_i^\top) A \omega_i

    for random signs ω, all of them from Q and A·Q: :math:`Q_i Q_i^\top = Q (I - s_i s_i^\top) Q^\top`, and what of
    :math:`A \omega_i` that misses lies along :math:`Q s_i`.

    The variance of the mean is :math:`s^2 / k + c`, as in ``hesse.estimate.xtrace``. With vectors i and l both left
    out, let r be what is left of their images. Adding l changes estimate i by
    :math:`-\omega_i \circ r_l (r_l^\top r_i) / \|r_l\|^2`, less its mean over ω_i, and adding i changes l likewise. The
    product of the two is :math:`(s_i^\top s_l)^2 \, (\omega_i \circ r_i) \circ (\omega_l \circ r_l)`, since r_i and r_l
    enclose the angle of s_i and −s_l; c is the mean over all pairs, the small difference between r_i and what is left
    of the image of ω_i without i alone neglected.

    Args:
        finder: Q, from the images of the probes.
        probes: ω as columns (n, k).
        images: A·Q as columns (n, k).

    Source: Epperly, Tropp and Webber, "XTrace: making the most of every sample in stochastic trace estimation", SIAM J.
    Matrix Anal. Appl. 45 (2024) 1–23, section 2.4.
    """
    whole = (finder.basis * images).sum(dim=1)
    # A rank may hold no entries, and PyTorch warns of the variance of nothing.
    if finder.exhausted or finder.is_whole or not len(whole):
        return whole, torch.full_like(whole, finder.unseen / math.sqrt(finder.dimension))
    lone, distances = finder.leave_one_out()
    along, k = finder.basis @ blocks.like(lone, probes), finder.size
    own = probes * along * blocks.like(distances, probes)
    changes = own - along * (images @ blocks.like(lone, probes))
    if k == 1:
        return whole + changes.squeeze(1), torch.full_like(whole, torch.inf)
    overlaps = (lone.mT @ lone).fill_diagonal_(0) ** 2
    shared = ((own @ blocks.like(overlaps, probes)) * own).sum(dim=1) / (k * (k - 1))
    return whole + changes.mean(dim=1), (changes.var(dim=1) / k + shared.clamp(min=0)).sqrt()
