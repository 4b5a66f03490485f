"""A minimal surface over a square frame by Newton's method with sparse Hessians: 9 products a step, at any size.

python examples/sparse.py
"""

import torch

import hesse


def area(u, frame):
    """The area of the surface over the unit square whose heights inside of the frame are u."""
    heights = frame.clone()
    heights[1:-1, 1:-1] = u
    spacing = 1 / (len(frame) - 1)
    right = (heights[:-1, 1:] - heights[:-1, :-1]) / spacing
    down = (heights[1:, :-1] - heights[:-1, :-1]) / spacing
    return (1 + right**2 + down**2).sqrt().sum() * spacing**2


def saddle(side):
    """Heights of the frame: two opposite edges are arches, the others valleys."""
    wave = torch.sin(torch.pi * torch.linspace(0, 1, side, dtype=torch.float64))
    frame = torch.zeros(side, side, dtype=torch.float64)
    frame[0], frame[-1] = wave, wave
    frame[:, 0], frame[:, -1] = -wave, -wave
    return frame


def minimize(side=200, steps=20, tol=1e-8):
    """Newton's steps, shortened until the area falls; the surface, its area, and the norms of gradients."""
    frame = saddle(side + 2)
    u = torch.zeros(side, side, dtype=torch.float64)
    H = hesse.Hessian(lambda u: area(u, frame), u)
    norms = []
    for _ in range(steps):
        norms.append(float(H.gradient.norm()))
        if norms[-1] <= tol * norms[0]:
            break
        step = (hesse.factorize(H.to_sparse()) @ H.gradient.flatten()).reshape(u.shape)
        length = 1.0
        while area(u - length * step, frame) > H.value and length > 1e-8:
            length /= 2
        u = u - length * step
        H = H.at(u)
    return u, float(H.value), norms, H


if __name__ == "__main__":
    u, surface, norms, H = minimize()
    print(f"{u.numel()} heights, a Hessian of {H.explain().entries} entries from {H.explain().colors} products")
    print(f"area {surface:.6f} after {len(norms) - 1} steps; gradients " + ", ".join(f"{norm:.1e}" for norm in norms))
