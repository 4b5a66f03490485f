"""A saddle point of a cluster of atoms, by following its lowest mode uphill from a minimum; and the minima it joins.

python examples/saddle.py

Along the lowest mode the point moves uphill, in all other directions it takes Newton steps downhill (Cerjan and Miller,
"On finding transition states", J. Chem. Phys. 75 (1981) 2800). Both come from products alone: one eigenpair and one
solve a step. Seven Lennard-Jones atoms have four minima.
"""

import math

import torch

import hesse

# The longest step, in diameters of an atom.
LONGEST = 0.1
# What moving or turning the cluster as a whole is made to cost, so that it is no lowest mode.
STIFF = 1e3


def energy(x):
    """Σ 4·(r⁻¹² − r⁻⁶) over all pairs of atoms at the rows of x."""
    i, j = torch.triu_indices(len(x), len(x), offset=1)
    attraction = ((x[i] - x[j]) ** 2).sum(-1) ** -3
    return (4 * (attraction**2 - attraction)).sum()


def minimum_near(x):
    """The minimum that a search from there ends at."""
    return hesse.minimize(energy, x, tol=0.0, atol=1e-9).x


def bipyramid():
    """The lowest minimum: five atoms in a ring, one above and one below."""
    ring = [(0.95 * math.cos(0.4 * math.pi * k), 0.95 * math.sin(0.4 * math.pi * k), 0.0) for k in range(5)]
    return minimum_near(torch.tensor([*ring, (0, 0, 0.6), (0, 0, -0.6)], dtype=torch.float64))


def rigid_motions(x):
    """Displacements that move or turn the cluster as a whole, as orthonormal columns."""
    axes, centered = torch.eye(3, dtype=x.dtype), x - x.mean(0)
    moves = [axis.repeat(len(x)) for axis in axes]
    turns = [torch.linalg.cross(axis.expand_as(x), centered).ravel() for axis in axes]
    return torch.linalg.qr(torch.stack(moves + turns, dim=1)).Q


def saddle_near(x, tol=1e-8, steps=200):
    """The saddle point that the lowest mode leads to from x, the mode there, and the path."""
    H, lowest, path = hesse.Hessian(energy, x), None, [x]
    heading = torch.zeros(x.numel(), dtype=x.dtype)
    for _ in range(steps):
        rigid = rigid_motions(x)
        A = H + STIFF * hesse.as_operator(rigid @ rigid.T, symmetric=True)
        lowest = hesse.eigsh(A, k=1, which="SA", tol=1e-6, rng=0, start=lowest)
        curvature, mode = float(lowest.values[0]), lowest.vectors[:, 0]
        mode = mode if mode @ heading >= 0 else -mode
        g = H.flatten(H.gradient)
        along = float(mode @ g)
        if curvature < 0 and g.norm() <= tol:
            return x, mode, path
        down = hesse.solve(A, along * mode - g, method="minres", tol=1e-8).solution
        up = LONGEST if curvature > 0 else -along / curvature
        step = up * mode + down
        step *= min(1.0, LONGEST / float(step.norm()))
        heading = mode
        x = x + step.reshape(x.shape)
        H = H.at(x)
        path.append(x)
    raise RuntimeError(f"No saddle point within {steps} steps.")


def minima_beside(x, mode):
    """The minima on both sides of a saddle point."""
    shift = 0.05 * mode.reshape(x.shape)
    return minimum_near(x + shift), minimum_near(x - shift)


if __name__ == "__main__":
    start = bipyramid()
    x, mode, path = saddle_near(start)
    print(f"minimum {energy(start):.6f}, saddle {energy(x):.6f} after {len(path) - 1} steps")
    print("it joins minima of energies " + " and ".join(f"{energy(each):.6f}" for each in minima_beside(x, mode)))
