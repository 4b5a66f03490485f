"""Train a potential on energies and forces with a compiled gradient, and show that the way is the plain one.

torch.compile has no double backward, so a loss of forces trains without a compiler. ``hesse.func.value_and_grad`` makes
one program of energies and forces, and one of their backward.

python examples/forces.py
"""

import time

import torch

import hesse
from potential import Potential, clusters, energy_and_forces


def train(energy_and_slope, model, data, steps):
    """The loss at each of so many steps of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step in range(steps):
        batch = data[step % len(data)]
        energy, slope = energy_and_slope(batch["positions"])
        loss = (energy - batch["energies"].sum()).square() / 32**2 + (slope + batch["forces"]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def plain(model):
    """Energies and slopes as plain PyTorch computes them."""

    def energy_and_slope(positions):
        energies, forces = energy_and_forces(model, positions)
        return energies.sum(), -forces

    return energy_and_slope


def compiled(model):
    """The same by programs; compared with plain PyTorch's where they are made."""
    return hesse.func.value_and_grad(lambda positions: model(positions).sum(), engine="compiled")


def ways(steps=200):
    """Losses and seconds of the same training both ways, compiling included."""
    data = [clusters(32, seed) for seed in range(4)]
    found = {}
    for name, way in (("plain", plain), ("compiled", compiled)):
        torch.manual_seed(0)
        model = Potential()
        began = time.perf_counter()
        found[name] = train(way(model), model, data, steps), time.perf_counter() - began
    return found


if __name__ == "__main__":
    found = ways()
    print("step    plain  compiled")
    for step in range(0, 200, 20):
        print(f"{step:4d}", *[f"{losses[step]:9.5f}" for losses, _ in found.values()])
    for name, (losses, seconds) in found.items():
        print(f"{name}: the loss is {losses[-1]:.5f} after {seconds:.1f} s")
