"""Checks that ranks run: every question about tensor parallel models, also sharded ones, against one process."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import hesse
from tests.distributed.mesh_products import batches, made
from tests.distributed.parallel_products import parallel, where_pytorch_can
from tests.distributed.questions_on_parts import close, require_resumed, require_same_bits
from tests.distributed.sharded_commands import shared_folder
from tests.distributed.sharded_products import entries
from tests.distributed.shared_products import LOSS, POINT, VECTORS, X, Y, network

MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "parallel": lambda: (parallel(), (X, Y)),
    "both": lambda: (made(), batches()),
}
# Positive definite, and with few steps to a solution.
SHIFT = 1.0


def operators() -> list[Any]:
    """Of one model on one process, and of the same on ranks."""
    alone = hesse.LossHessian(network(), LOSS, (X, Y))
    models = [make() for make in MODELS.values()]
    return [alone, *[hesse.LossHessian(model, LOSS, data) for model, data in models]]


def eigenvalues() -> None:
    alone, *others = operators()
    for options in (
        {"k": 3, "tol": 1e-8, "basis_size": 12},
        {"k": (2, 2), "which": "BE", "basis_size": 20, "tol": 1e-6},
    ):
        expected = hesse.eigsh(alone, rng=0, max_products=2000, **options)
        for H in others:
            found = hesse.eigsh(H, rng=0, max_products=2000, **options)
            close(found.values, expected.values)
            close((H.whole(found.vectors).mT @ expected.vectors).abs(), torch.eye(len(found.values)), 1e-5)
            require_same_bits(found.values, found.residuals)


def sums_over_the_spectrum() -> None:
    alone, *others = operators()
    for method in ("hutchinson", "xtrace", "exact"):
        ask = functools.partial(hesse.trace, method=method, tol=0.02, rng=0, max_products=80)
        expected = ask(alone)
        for H in others:
            close(ask(H).estimate, expected.estimate)
    for method in ("xdiag", "exact"):
        find = functools.partial(hesse.diagonal, method=method, tol=0.1, rng=0, max_products=100)
        diagonal = find(alone)
        for H in others:
            close(H.whole(find(H).estimate), diagonal.estimate)
    density = hesse.spectral_density(alone, rng=0, num_probes=3, num_steps=8)
    logdet = hesse.logdet(alone.shift(SHIFT), rng=0, tol=0.2, num_steps=6, max_products=30)
    frobenius = hesse.frobenius_norm(alone, rng=0)
    for H in others:
        close(hesse.spectral_density(H, rng=0, num_probes=3, num_steps=8).moment(2)[0], density.moment(2)[0])
        close(hesse.logdet(H.shift(SHIFT), rng=0, tol=0.2, num_steps=6, max_products=30).estimate, logdet.estimate)
        close(hesse.frobenius_norm(H, rng=0).estimate, frobenius.estimate)


def solves() -> None:
    alone, *others = operators()
    b, matrix = VECTORS[:, 0], alone.to_dense()
    identity = torch.eye(len(matrix), dtype=torch.float64)
    for H in others:
        S, here = H.shift(SHIFT), entries(H)
        for method, M in (
            ("cg", None),
            ("minres", None),
            ("cg", hesse.jacobi(hesse.diagonal(S, method="exact"))),
            ("cg", hesse.nystrom(S, 10, shift=0.01, rng=0)),
        ):
            found = hesse.solve(S, b[here], method=method, preconditioner=M, tol=1e-12)
            close(H.whole(found.solution), torch.linalg.solve(matrix + SHIFT * identity, b))
        shifted = hesse.solve_shifted(S, b[here], [1.0, 0.1], tol=1e-12)
        for shift, x in zip((1.0, 0.1), shifted.solutions, strict=True):
            close(H.whole(x), torch.linalg.solve(matrix + (SHIFT + shift) * identity, b))


def checkpoints() -> None:
    _, *others = operators()
    folder = shared_folder()
    for name, H in zip(MODELS, others, strict=True):
        S, b = H.shift(SHIFT), VECTORS[entries(H), 0]
        questions: dict[str, tuple[int, Callable[..., Tensor]]] = {
            "eigsh": (14, lambda **keep: hesse.eigsh(H, 2, rng=5, basis_size=10, tol=1e-8, **keep).vectors),  # noqa: B023  # called at once
            "diagonal": (20, lambda **keep: hesse.diagonal(H, method="exact", **keep).estimate),  # noqa: B023  # called at once
            "cg": (6, lambda **keep: hesse.solve(S, b, method="cg", tol=1e-12, **keep).solution),  # noqa: B023  # called at once
        }
        for question, (most, ask) in questions.items():
            require_resumed(ask, folder / f"{name}.{question}", most)


def minima() -> None:
    """The point is that of one process, and the model stays as it is."""
    alone = hesse.minimize(hesse.GaussNewton(network(), LOSS, (X, Y)), tol=1e-3, max_products=400)
    expected = torch.cat([entry.reshape(-1) for entry in alone.x.values()])
    for make in MODELS.values():
        model, data = make()
        before = [entry.detach().clone() for entry in model.parameters()]
        H = hesse.GaussNewton(model, LOSS, data)
        found = hesse.minimize(H, tol=1e-3, max_products=400)
        close(H.whole(H.flatten(found.x)), expected, 1e-6)
        assert found.num_products == alone.num_products
        for then, entry in zip(before, model.parameters(), strict=True):
            assert torch.equal(*[p.to_local() if hasattr(p, "to_local") else p for p in (then, entry.detach())])
    assert not torch.allclose(expected, POINT)


CHECKS = [where_pytorch_can(check) for check in (eigenvalues, sums_over_the_spectrum, solves, checkpoints, minima)]
