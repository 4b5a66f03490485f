"""Every public entry point, as something that can be done on a device; numbers are the same on each.

Inputs are drawn on the CPU, so that no device's generator decides on them.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hesse
from hesse._linearize.program.backends import EAGER
from tests.linearize import programs

N = 24
CPU = torch.device("cpu")


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers on the CPU."""
    return torch.randn(*shape, generator=torch.Generator(CPU).manual_seed(seed), device=CPU)


class Setting:
    """A symmetric function, a model and its data on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        square = numbers(N, N)
        self.A = ((square + square.mT) / N**0.5).to(device)
        self.x, self.v = numbers(N, seed=1).to(device), numbers(N, seed=2).to(device)
        self.many = numbers(N, 20, seed=3).to(device)
        self.net = nn.Sequential(
            *[nn.Linear(3, 4, device=CPU), nn.Tanh(), nn.LayerNorm(4, device=CPU), nn.Linear(4, 3, device=CPU)]
        ).to(device)
        with torch.no_grad():
            for number, parameter in enumerate(self.net.parameters()):
                parameter.copy_(numbers(*parameter.shape, seed=10 + number))
        self.size = sum(parameter.numel() for parameter in self.net.parameters())
        self.u = numbers(self.size, seed=4).to(device)
        labels = (numbers(12, seed=6) > 0).long()
        rows = numbers(12, 3, seed=5)
        # Batches in the memory of the CPU are copied.
        self.data = [(rows[:8], labels[:8]), (rows[8:], labels[8:])]

    def f(self, x: Tensor) -> Tensor:
        """A function of x with a Hessian that is neither definite nor constant."""
        return x @ (self.A @ x) / 2 + (x**4).sum() / 12

    def residuals(self, x: Tensor) -> Tensor:
        """A map to as many numbers."""
        return self.A @ x + torch.sin(x)

    @functools.cached_property
    def H(self) -> hesse.Hessian:
        """The Hessian of the function, by the tape."""
        return hesse.Hessian(self.f, self.x, engine="tape")

    @property
    def positive(self) -> Any:
        """The same, shifted to be positive definite."""
        return self.H.shift(20.0)

    def loss(self) -> nn.Module:
        """The loss of the model."""
        return nn.CrossEntropyLoss()


def _squares(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square().mean()


def _solve_with_gradient(s: Setting) -> Any:
    b = s.v.clone().requires_grad_()
    H = hesse.Hessian(s.f, s.x, create_graph=True, engine="tape").shift(20.0)
    return torch.autograd.grad(hesse.solve(H, b, create_graph=True, tol=1e-6).solution.square().sum(), b)


def _resumed(s: Setting) -> Any:
    """A question stopped by its callback, and taken up again from its checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        kept = hesse.Checkpoint(Path(folder) / "kept", seconds=0)
        hesse.eigsh(s.H, 2, rng=0, checkpoint=kept, callback=lambda progress: progress.num_products > 6)
        return hesse.eigsh(s.H, 2, rng=0, checkpoint=kept).values


def _value_and_gradient(H: Any) -> Any:
    return [H.value, H.flatten(H.gradient)]


def _problem(s: Setting) -> Any:
    return hesse.Problem(func=s.f, inputs=s.x).operator(engine="tape") @ s.v


def _scipy_functions(s: Setting) -> Any:
    functions = hesse.scipy_functions(s.f, s.x, engine="tape")
    return torch.from_numpy(functions.hessp(functions.x0, functions.x0))


def _compiled_product(s: Setting) -> Any:
    with programs.running(EAGER):
        return hesse.func.hvp(s.f, engine="compiled")(s.x, s.v)


def _chain(s: Setting) -> Tensor:
    """A sparse positive definite Hessian whose pattern is found."""
    return hesse.sparse_hessian(lambda x: ((x[1:] - x[:-1]) ** 2).sum() + (x**4 + x**2).sum(), s.x, _NEIGHBORS)


_NEIGHBORS = torch.ones(N, N, device=CPU).tril(1).triu(-1) != 0

Entry = Callable[[Setting], Any]
OVER_DATA: dict[str, Entry] = {
    "LossHessian": lambda s: hesse.LossHessian(s.net, s.loss(), s.data, engine="tape") @ s.u,
    "LossHessian value": lambda s: _value_and_gradient(hesse.LossHessian(s.net, s.loss(), s.data, engine="tape")),
    "LossHessian by pieces": lambda s: hesse.LossHessian(s.net, s.loss(), s.data, memory="4KB", engine="tape") @ s.u,
    "LossHessian loss_at": lambda s: hesse.LossHessian(s.net, s.loss(), s.data).loss_at(dict(s.net.named_parameters())),
    "LossHessian data_block": lambda s: (
        hesse.LossHessian(s.net, s.loss(), s.data, engine="tape").data_block(0).to_dense()
    ),
    "LossHessian mean": lambda s: hesse.LossHessian(s.net, _squares, (s.data[0][0], s.data[0][0])) @ s.u,
    "GaussNewton": lambda s: hesse.GaussNewton(s.net, s.loss(), s.data, engine="tape") @ s.u,
    "GaussNewton function": lambda s: hesse.GaussNewton(s.residuals, s.x, engine="tape") @ s.v,
    "Fisher": lambda s: hesse.Fisher(s.net, s.loss(), s.data, engine="tape") @ s.u,
    "EmpiricalFisher": lambda s: hesse.EmpiricalFisher(s.net, s.loss(), s.data, engine="tape") @ s.u,
    "EmpiricalFisher columns": lambda s: hesse.EmpiricalFisher(s.net, s.loss(), s.data, engine="tape").to_dense(),
}
"""Entries that take a model and its data."""

ENTRIES: dict[str, Entry] = {
    "vhp": lambda s: hesse.vhp(s.f, s.x, s.v),
    "hvp": lambda s: hesse.hvp(s.f, s.x, s.v),
    "vhp create_graph": lambda s: hesse.vhp(s.f, s.x, s.v, create_graph=True)[1].detach(),
    "vhp strict": lambda s: hesse.vhp(s.f, s.x, s.v, strict=True),
    "vhp without v": lambda s: hesse.vhp(lambda x: x**3, s.x[:1]),
    "functional.jvp": lambda s: hesse.functional.jvp(s.residuals, s.x, s.v),
    "functional.vjp": lambda s: hesse.functional.vjp(s.residuals, s.x, s.v),
    "functional.jacobian": lambda s: hesse.functional.jacobian(s.residuals, s.x),
    "functional.jacobian vectorize": lambda s: hesse.functional.jacobian(s.residuals, s.x, vectorize=True),
    "functional.jacobian forward": lambda s: hesse.functional.jacobian(
        s.residuals, s.x, vectorize=True, strategy="forward-mode"
    ),
    "functional.hessian": lambda s: hesse.functional.hessian(s.f, s.x),
    "functional.hessian vectorize": lambda s: hesse.functional.hessian(s.f, s.x, vectorize=True),
    "functional.hessian forward": lambda s: hesse.functional.hessian(
        s.f, s.x, vectorize=True, outer_jacobian_strategy="forward-mode"
    ),
    "func.grad": lambda s: hesse.func.grad(s.f)(s.x),
    "func.value_and_grad": lambda s: hesse.func.value_and_grad(s.f)(s.x),
    "func.hvp": lambda s: hesse.func.hvp(s.f)(s.x, s.v),
    "func.vhp": lambda s: hesse.func.vhp(s.f)(s.x, s.v),
    "func.hvp compiled": _compiled_product,
    "func.hvp vmap": lambda s: torch.vmap(hesse.func.hvp(s.f), in_dims=(None, 0))(s.x, s.many.mT),
    "Hessian": lambda s: s.H @ s.v,
    "Hessian columns": lambda s: s.H @ s.many,
    "Hessian vmap": lambda s: hesse.Hessian(s.f, s.x, engine="tape", batching="vmap") @ s.many,
    "Hessian memory": lambda s: hesse.Hessian(s.f, s.x, engine="tape", memory="1MB") @ s.many,
    "Hessian program": lambda s: programs.hessian(s.f, s.x) @ s.v,
    "Jacobian program": lambda s: programs.jacobian(s.residuals, s.x) @ s.many,
    "Hessian batch_dim": lambda s: hesse.Hessian(
        lambda x: (x**4).sum(1), s.x.reshape(4, -1), batch_dim=0
    ).dense_blocks(),
    "Hessian value": lambda s: _value_and_gradient(s.H),
    "Hessian rows": lambda s: s.H.rows([0, 3]),
    "Hessian to_dense": lambda s: s.H.to_dense(),
    "Hessian at": lambda s: s.H.at(2 * s.x) @ s.v,
    "Hessian explain": lambda s: str(s.H.explain()) and None,
    "Hessian randn": lambda s: s.H.randn(3, 0),
    "Hessian signs": lambda s: s.H.signs(3, 0),
    "Hessian to_scipy": lambda s: torch.from_numpy(s.H.to_scipy() @ s.v.cpu().numpy()),
    "Hessian of NumPy": lambda s: torch.from_numpy(s.H @ s.v.cpu().numpy()),
    "Hessian torch generator": lambda s: hesse.trace(s.H, rng=torch.Generator(CPU).manual_seed(0)).estimate,
    "Jacobian": lambda s: hesse.Jacobian(s.residuals, s.x) @ s.v,
    "Jacobian transposed": lambda s: hesse.Jacobian(s.residuals, s.x).T @ s.many,
    "Jacobian to_dense": lambda s: hesse.Jacobian(s.residuals, s.x).to_dense(),
    "Identity": lambda s: (s.H + 3 * hesse.Identity(s.H)) @ s.v,
    "as_operator": lambda s: hesse.as_operator(s.A, symmetric=True) @ s.v,
    "Operator algebra": lambda s: (2 * s.H - s.H @ s.H + hesse.as_operator(s.A)) @ s.many,
    "Problem": _problem,
    "check": lambda s: hesse.check(s.f, s.x, rng=0).ok,
    "eigsh": lambda s: hesse.eigsh(s.H, 2, rng=0).values,
    "eigsh block_size": lambda s: hesse.eigsh(s.H, 2, rng=0, block_size=2).values,
    "eigsh basis_device": lambda s: hesse.eigsh(s.H, 2, rng=0, basis_device="cpu").values,
    "eigsh certify": lambda s: hesse.eigsh(s.H, 2, rng=0, certify=True, start=hesse.eigsh(s.H, 2, rng=0)).values,
    "eigsh both ends": lambda s: hesse.eigsh(s.H, 4, which="BE", basis_size=9, rng=0).values,
    "eigsh checkpoint": _resumed,
    "trace": lambda s: hesse.trace(s.H, rng=0, max_products=10).estimate,
    "trace hutchinson": lambda s: hesse.trace(s.H, rng=0, method="hutchinson", max_products=9).estimate,
    "trace hutch++": lambda s: hesse.trace(s.H, rng=0, method="hutch++", max_products=12).estimate,
    "trace xtrace": lambda s: hesse.trace(s.H, rng=0, method="xtrace", max_products=12).estimate,
    "trace exact": lambda s: hesse.trace(s.H, rng=0, method="exact").estimate,
    "diagonal": lambda s: hesse.diagonal(s.H, rng=0).estimate,
    "diagonal xdiag": lambda s: hesse.diagonal(s.H, rng=0, method="xdiag", max_products=12).estimate,
    "diagonal hutchinson": lambda s: hesse.diagonal(s.H, rng=0, method="hutchinson", max_products=12).estimate,
    "frobenius_norm": lambda s: hesse.frobenius_norm(s.H, rng=0, max_products=12).estimate,
    "spectral_density": lambda s: hesse.spectral_density(s.H, rng=0, num_probes=2, num_steps=8).density,
    "trace_of": lambda s: hesse.trace_of(torch.tanh, s.H, rng=0, max_products=200).estimate,
    "logdet": lambda s: hesse.logdet(s.positive, rng=0, max_products=200).estimate,
    "solve": lambda s: hesse.solve(s.H, s.v, tol=1e-5).solution,
    "solve cg": lambda s: hesse.solve(s.positive, s.v, method="cg").solution,
    "solve columns": lambda s: hesse.solve(s.positive, s.many[:, :3], method="cg").solution,
    "solve singular": lambda s: hesse.solve(torch.diag(s.x.new_tensor([1.0, 2.0, 0.0])), s.x.new_ones(3)).endings,
    "solve jacobi": lambda s: (
        hesse.solve(s.positive, s.v, preconditioner=hesse.jacobi(hesse.diagonal(s.positive, rng=0))).solution
    ),
    "solve nystrom": lambda s: (
        hesse.solve(s.positive, s.v, preconditioner=hesse.nystrom(s.positive, 5, rng=0)).solution
    ),
    "solve create_graph": _solve_with_gradient,
    "solve_shifted": lambda s: hesse.solve_shifted(s.positive, s.v, [1.0, 2.0]).solutions,
    "minimize": lambda s: hesse.minimize(lambda x: s.f(x) + 10 * (x**2).sum(), s.x, tol=1e-4).fun,
    "minimize levenberg-marquardt": lambda s: (
        hesse.minimize(lambda x: x + torch.sin(x) / 2, s.x, method="levenberg-marquardt", tol=1e-4).fun
    ),
    "scipy_functions": _scipy_functions,
    "sparse_hessian": lambda s: _chain(s).to_dense(),
    "sparse_hessian pattern": lambda s: hesse.sparse_hessian(s.f, s.x, torch.ones(N, N, device=CPU) != 0).to_dense(),
    "factorize": lambda s: hesse.factorize(_chain(s)) @ s.v,
    "to_scipy": lambda s: torch.from_numpy(hesse.to_scipy(_chain(s)).toarray()),
    "rule cdist": lambda s: hesse.vhp(lambda x: torch.cdist(x.view(4, -1), 1 - x.view(4, -1)).sum(), s.x, s.v),
    "rule hardsigmoid": lambda s: hesse.vhp(lambda x: (nn.functional.hardsigmoid(x) ** 2).sum(), s.x, s.v),
    "rule embedding_bag": lambda s: hesse.vhp(
        lambda w: (
            nn.functional.embedding_bag(
                torch.arange(4, device=s.device).view(2, 2),
                w.view(4, -1),
                per_sample_weights=w[:4].view(2, 2),
                mode="sum",
            )
            .square()
            .sum()
        ),
        s.x,
        s.v,
    ),
    **OVER_DATA,
}
"""What is done, by name: the first word is the entry's."""


def flat(found: Any) -> list[Tensor]:
    """The numbers of a result, as float64 on the CPU."""
    if isinstance(found, list | tuple):
        return [entry for part in found for entry in flat(part)]
    if isinstance(found, Tensor):
        return [found.detach().cpu().double()]
    return [torch.tensor(float(found), dtype=torch.float64, device=CPU)] if isinstance(found, int | float) else []


# A build without CUDA has no kernels of sparse matrices under CUDA's keys.
_NEEDS_SPARSE_KERNELS = {"sparse_hessian", "factorize", "to_scipy"}
DENSE = [name for name in ENTRIES if name.split()[0] not in _NEEDS_SPARSE_KERNELS]


@functools.cache
def _on_the_cpu(name: str) -> list[Tensor]:
    return flat(ENTRIES[name](Setting(CPU)))


def assert_same_as_on_the_cpu(name: str, device: str) -> None:
    """An entry gives the same numbers there, and draws none from the devices' own generators."""
    generators = [generator.get_state() for generator in torch.cuda.default_generators]
    found = flat(ENTRIES[name](Setting(torch.device(device))))
    for now, then in zip(torch.cuda.default_generators, generators, strict=True):
        torch.testing.assert_close(now.get_state(), then, rtol=0, atol=0)
    for ours, theirs in zip(found, _on_the_cpu(name), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
