"""An interatomic potential learned from energies and forces, which are gradients taken inside the loss.

python examples/potential.py
hesse spectrum examples/potential.py --top 10 --bottom 3 --probes 2 --steps 30 --max-products 100
"""

import torch

import hesse


class Potential(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.pair = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.SiLU(), torch.nn.Linear(32, 1))

    def forward(self, positions):
        return self.pair(distances(positions).unsqueeze(-1)).sum((1, 2))


def distances(positions):
    i, j = torch.triu_indices(positions.shape[1], positions.shape[1], offset=1)
    return torch.linalg.vector_norm(positions[:, i] - positions[:, j], dim=-1)


def energy_and_forces(energy, positions):
    energies = energy(x := positions.detach().requires_grad_())
    return energies, -torch.autograd.grad(energies.sum(), x, create_graph=True)[0]


def loss(model, batch):
    energies, forces = energy_and_forces(model, batch["positions"])
    return (energies - batch["energies"]).square().mean() + (forces - batch["forces"]).square().mean()


def clusters(number, seed):
    """Eight atoms near the corners of a cube, with Morse energies and forces."""
    noise = torch.randn(number, 8, 3, generator=torch.Generator().manual_seed(seed))
    positions = 1.2 * torch.cartesian_prod(*[torch.arange(2.0)] * 3) + 0.1 * noise
    energies, forces = energy_and_forces(lambda x: ((1 - torch.exp(1.2 - distances(x))) ** 2).sum(1), positions)
    return {"positions": positions, "energies": energies.detach(), "forces": forces.detach()}


def problem(steps=300):
    """The loss over four batches after some training; the loss is given the model and the dictionary."""
    data = [clusters(32, seed) for seed in range(4)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Potential()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for step in range(steps):
            optimizer.zero_grad()
            loss(model, data[step % 4]).backward()
            optimizer.step()
    return hesse.Problem(model=model, loss=loss, data=data)


if __name__ == "__main__":
    H = problem().operator()
    print(f"{H.shape[0]} weights: loss {H.value:.4g}, sharpness {hesse.eigsh(H, 1, which='LA', rng=0).values[0]:.3f}")
