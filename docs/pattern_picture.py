"""Draws pattern.png: the pattern of a grid's Hessian, its columns in colors, and the products that hold all entries.

python docs/pattern_picture.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch

import hesse

SIDE = 6


def membrane(u):
    """The energy of a square grid of springs."""
    return ((u[:, 1:] - u[:, :-1]) ** 4).sum() + ((u[1:] - u[:-1]) ** 4).sum() + (u**4).sum()


def main() -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    u = torch.rand(SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    H = hesse.Hessian(membrane, u)
    matrix = hesse.to_scipy(H.to_sparse()).toarray() != 0
    # The colors as the operator's plan has them: the product in which each column is.
    plan = H._sparse_plan
    assert plan is not None
    colors = plan.colors.numpy()
    count = plan.num_colors
    compressed = np.zeros((SIDE**2, count), dtype=bool)
    for color in range(count):
        compressed[:, color] = matrix[:, colors == color].any(axis=1)

    figure, axes = plt.subplots(1, 3, figsize=(9, 4), width_ratios=[6, 6, 2], layout="constrained")
    white, shades = [1.0, 1.0, 1.0], plt.get_cmap("tab10").colors
    axes[0].imshow(matrix, cmap="Greys", interpolation="nearest")
    axes[0].set_title(f"{matrix.sum()} entries in {SIDE**2} columns")
    painted = np.array([[shades[colors[j]] if matrix[i, j] else white for j in range(SIDE**2)] for i in range(SIDE**2)])
    axes[1].imshow(painted, interpolation="nearest")
    axes[1].set_title(f"{count} colors")
    painted = np.array([[shades[j] if compressed[i, j] else white for j in range(count)] for i in range(SIDE**2)])
    axes[2].imshow(painted, interpolation="nearest", aspect="auto")
    axes[2].set_title(f"{count} products")
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(Path(__file__).with_name("pattern.png"), dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
