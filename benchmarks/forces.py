"""Training on forces: a training gradient by plain double backwards, and by hesse's compiled gradient.

``python -m benchmarks.forces`` writes benchmarks/results/forces.json. A potential of three rounds of messages between
100 atoms is trained on forces; all ways take turns, in one process. The losses of 200 steps of Adam are compared in
float64: in float32 rounding grows along a training, also between two runs of PyTorch with one thread and two.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import hesse
from benchmarks import environment, results_file, table
from benchmarks.processes import limit_memory, run_fresh

ATOMS, WIDTH, SHELLS, ROUNDS_OF_MESSAGES = 100, 64, 20, 3
ROUNDS, STEPS, TIMEOUT = 25, 200, 1800

Slope = Callable[[Tensor], Tensor]


class Potential(nn.Module):
    """The energy is a sum over atoms, whose states are changed by messages from atoms within a distance of 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kinds = nn.Embedding(10, width)
        self.register_buffer("centers", torch.linspace(0, 5, SHELLS))
        self.filters = nn.ModuleList(_perceptron(SHELLS, width) for _ in range(ROUNDS_OF_MESSAGES))
        self.updates = nn.ModuleList(_perceptron(width, width) for _ in range(ROUNDS_OF_MESSAGES))
        self.out = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, positions: Tensor, kinds: Tensor, i: Tensor, j: Tensor) -> Tensor:
        state = self.kinds(kinds)
        distance = torch.linalg.vector_norm(positions[i] - positions[j], dim=-1)
        shells = torch.exp(-4 * (distance[:, None] - self.centers) ** 2)
        for filter, update in zip(self.filters, self.updates, strict=True):
            messages = state[j] * filter(shells) / 10
            state = state + update(torch.zeros_like(state).index_add(0, i, messages))
        energy: Tensor = self.out(state).sum()
        return energy


def _perceptron(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))


class Problem:
    """A cluster of atoms with forces to learn, and potentials that start alike."""

    def __init__(self, quick: bool, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        atoms, self.width = (8, 4) if quick else (ATOMS, WIDTH)
        self.positions = 8 * torch.rand(atoms, 3).to(dtype)
        near = (torch.cdist(self.positions, self.positions) < 4) & ~torch.eye(atoms, dtype=torch.bool)
        self.graph = (torch.randint(0, 10, (atoms,)), *near.nonzero(as_tuple=True))
        self.forces = torch.randn(atoms, 3).to(dtype)

    def potential(self) -> Potential:
        torch.manual_seed(1)
        return Potential(self.width).to(self.positions.dtype)

    def slope(self, way: str, net: Potential) -> Slope:
        """The energy's gradient by the positions, to be differentiated by the parameters."""

        def energy(positions: Tensor) -> Tensor:
            found: Tensor = net(positions, *self.graph)
            return found

        def plain(positions: Tensor) -> Tensor:
            x = positions.detach().requires_grad_()
            return torch.autograd.grad(energy(x), x, create_graph=True)[0]

        if way == "PyTorch":
            return plain
        slope: Slope = hesse.func.grad(energy, engine="compiled" if way == "hesse compiled" else "tape")
        return slope

    def loss(self, slope: Slope) -> Tensor:
        return (slope(self.positions) + self.forces).square().mean()


WAYS = ("PyTorch", "hesse", "hesse compiled")


def measure(quick: bool) -> dict[str, Any]:
    """Seconds of a training gradient each way, and the losses of a training."""
    problem = Problem(quick, torch.float32)
    nets = {way: problem.potential() for way in WAYS}
    slopes = {way: problem.slope(way, net) for way, net in nets.items()}

    def gradient(way: str) -> None:
        nets[way].zero_grad()
        problem.loss(slopes[way]).backward()

    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    first = {}
    for way in WAYS:
        began = time.perf_counter()
        gradient(way)
        first[way] = time.perf_counter() - began
        gradient(way)
    for _ in range(1 if quick else ROUNDS):
        for way in WAYS:
            began = time.perf_counter()
            gradient(way)
            seconds[way].append(time.perf_counter() - began)
    exact = Problem(quick, torch.float64)
    losses = {way: training(exact, way, 3 if quick else STEPS) for way in WAYS}
    return {
        "title": f"{len(problem.positions)} atoms, {len(problem.graph[1])} edges, width {problem.width}",
        "rows": [
            {
                "way": way,
                "seconds": median(seconds[way]),
                "ratio": median(a / b for a, b in zip(seconds["PyTorch"], seconds[way], strict=True)),
                "first_seconds": first[way],
                "loss_difference": max(abs(a / b - 1) for a, b in zip(losses[way], losses["PyTorch"], strict=True)),
            }
            for way in WAYS
        ],
    }


def training(problem: Problem, way: str, steps: int) -> list[float]:
    """The losses of so many steps of Adam."""
    net = problem.potential()
    slope = problem.slope(way, net)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = problem.loss(slope)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="forces", description="Time training gradients of a loss of forces.")
    parser.add_argument("--here", action="store_true", help="in this process, as JSON")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; printed only")
    options = parser.parse_args(arguments)
    if options.here:
        limit_memory()
        print(json.dumps(measure(options.quick)))
        return 0
    found = run_fresh("forces", "--here", *(["--quick"] if options.quick else []), timeout=TIMEOUT)
    results = {"environment": environment.describe(), "torch_threads": torch.get_num_threads(), **found}
    if not options.quick:
        results_file.write(results_file.FOLDER / "forces.json", results)
    print(table.render(results, "forces"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
