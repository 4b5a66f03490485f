"""A physics-informed network for −u″ = π²·sin(πx), whose second derivative is taken inside the loss.

python examples/physics_informed.py
hesse spectrum examples/physics_informed.py --top 10 --bottom 3 --probes 2 --steps 30 --max-products 100

A Hessian product of this loss needs fourth derivatives of the network. The spread of the eigenvalues is why such
networks train slowly.
"""

import math

import torch

import hesse


def network():
    return torch.nn.Sequential(
        torch.nn.Linear(1, 24), torch.nn.Tanh(), torch.nn.Linear(24, 24), torch.nn.Tanh(), torch.nn.Linear(24, 1)
    )


def loss(u, points):
    """The mean square of the equation's residual; boundary values are built in, as x·(1 − x)·u."""
    x = points.detach().requires_grad_()
    values = x * (1 - x) * u(x)
    (slope,) = torch.autograd.grad(values.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    return (-curvature - math.pi**2 * torch.sin(math.pi * x)).square().mean()


def problem(steps=500):
    points = torch.linspace(0, 1, 128).unsqueeze(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = network()
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(net, points).backward()
            optimizer.step()
    # A batch that is a tensor, and no pair, is given to the loss with the model.
    return hesse.Problem(model=net, loss=loss, data=[points[:64], points[64:]])


if __name__ == "__main__":
    H = problem().operator()
    found = hesse.eigsh(H, k=(3, 3), which="BE", rng=0).values.tolist()
    print(f"{H.shape[0]} parameters, loss {H.value:.4g}")
    print("smallest and largest eigenvalues:", ", ".join(f"{value:.4g}" for value in sorted(found)))
