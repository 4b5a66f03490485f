"""Run by ``test_checkpoint.py`` in a process of its own: ask a question, and be killed at a product.

``python -m tests.solvers.checkpointed QUESTION CHECKPOINT PRODUCT`` prints the digits of the answer, or is killed by
SIGKILL while it makes that product. CHECKPOINT may be ``none``, and PRODUCT ``never``. Several pairs CHECKPOINT
PRODUCT are processes one after another, forked after what they import; of each that was killed the status is printed.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

import numpy as np
import torch

import hesse

from .known_matrices import with_eigenvalues


def minimum(method, checkpoint, product):
    """The digits of a minimization whose process is killed at a product."""
    target = torch.linspace(-1, 1, 40, dtype=torch.float64)

    def residuals(p):
        x = p["x"].flatten() * p["scale"]
        return {
            "valley": 10 * (x[1:] - x[:-1] ** 2),
            "slope": 1 - x[:-1],
            "scale": (p["scale"] - 2)[None],
            "x": x - target,
        }

    def func(p):
        return sum(residual.square().sum() for residual in residuals(p).values())

    x0 = {
        "x": torch.linspace(-1.2, 1, 40, dtype=torch.float64).reshape(5, 8),
        "scale": torch.ones((), dtype=torch.float64),
    }

    def watch(progress):
        if product is not None and progress.num_products >= product:
            os.kill(os.getpid(), signal.SIGKILL)

    found = hesse.minimize(
        func if method == "newton" else residuals, x0, method=method, tol=1e-9, checkpoint=checkpoint, callback=watch
    )
    return (
        found.x["x"].tolist(),
        found.x["scale"].tolist(),
        found.fun,
        found.grad_norm,
        found.nit,
        found.nfev,
        found.num_products,
    )


class Deadly(hesse.Operator):
    """An operator whose process is killed at a product."""

    symmetric = True

    def __init__(self, inner: hesse.Operator, last: int | None) -> None:
        self._inner, self._left = inner, last
        self.shape, self.dtype, self.device = inner.shape, inner.dtype, inner.device

    def matmat(self, V):
        """A·V."""
        if self._left is not None:
            self._left -= V.shape[1]
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._inner.matmat(V)


def hessian():
    """Of a small network's loss, whose products pass through autograd."""
    draw = torch.Generator().manual_seed(0)
    X, y = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((50, 6), (50,)))
    parameters = {
        "first": torch.randn(6, 8, generator=draw, dtype=torch.float64),
        "second": torch.randn(8, generator=draw, dtype=torch.float64),
    }
    return hesse.Hessian(lambda p: ((torch.tanh(X @ p["first"]) @ p["second"] - y) ** 2).mean(), parameters)


DECAYING = with_eigenvalues(0.8 ** np.arange(150.0), dtype=torch.float32)
SYSTEM = with_eigenvalues(np.concatenate([np.linspace(-4, -1, 20), 10.0 ** np.linspace(-1, 2, 130)]))
CROWDED = with_eigenvalues(np.concatenate([np.linspace(-1, 1, 144), np.full(3, 1.5), [1.2, -1.3, -1.3]]))
DAMPED = with_eigenvalues(10.0 ** np.linspace(-1, 2, 150))
SHIFTS = [3.0, 0.01, 0.3, 0.0]
RIGHT = SYSTEM @ torch.from_numpy(np.random.default_rng(0).standard_normal((150, 3)))


def jacobi(shift):
    """A preconditioner for the damped matrix."""
    return hesse.jacobi(DAMPED.diagonal() + shift)


def ask(question: str, operator, checkpoint):
    """The digits of an answer."""
    if question == "minres":
        found = hesse.solve(operator(hesse.as_operator(SYSTEM)), RIGHT, tol=1e-10, checkpoint=checkpoint)
        return found.solution.tolist(), found.residual_norms.tolist(), found.num_products, found.curvature
    if question == "cg":
        H = operator(hessian()).shift(5.1)
        M = hesse.jacobi(torch.linspace(1, 2, H.shape[0], dtype=torch.float64))
        b = torch.ones(H.shape[0], dtype=torch.float64)
        found = hesse.solve(H, b, method="cg", tol=1e-12, preconditioner=M, checkpoint=checkpoint)
        return found.solution.tolist(), found.residual_norms.tolist(), found.num_products
    if question.startswith("eigsh"):
        ends = ((3, 3), "BE") if question == "eigsh of both ends" else (6, "LA")
        words = {"block_size": 3 if question == "eigsh by blocks" else 1, "basis_size": 40, "certify": True}
        matrix = hesse.as_operator(CROWDED)
        found = hesse.eigsh(operator(matrix), ends[0], which=ends[1], rng=3, checkpoint=checkpoint, **words)
        return found.values.tolist(), found.vectors.tolist(), found.residuals.tolist(), found.num_products
    if question in ("spectral_density", "exact spectral_density"):
        steps = 30 if question == "spectral_density" else 50
        matrix = hesse.as_operator(CROWDED)
        found = hesse.spectral_density(operator(matrix), num_probes=3, num_steps=steps, rng=3, checkpoint=checkpoint)
        return found.nodes.tolist(), found.weights.tolist(), found.low.tolist(), found.num_products, found.converged
    if question in ("logdet", "exact logdet"):
        matrix = hesse.as_operator(DAMPED if question == "logdet" else DAMPED[:90, :90])
        found = hesse.logdet(operator(matrix), tol=0.3, num_steps=6, rng=3, checkpoint=checkpoint)
        return found.estimate, found.interval, found.quadrature_error, found.num_probes, found.num_products
    if question == "trace_of":
        # Few samples tell that the whole matrix is cheaper.
        matrix = hesse.as_operator(CROWDED)
        found = hesse.trace_of(torch.exp, operator(matrix), tol=1e-4, num_steps=20, rng=3, checkpoint=checkpoint)
        return found.estimate, found.interval, found.num_probes, found.num_products
    if question.startswith("solve_shifted"):
        b = torch.ones(150, dtype=torch.float64)
        inverse = {"solve_shifted": None, "solve_shifted, preconditioned": jacobi}[question]
        found = hesse.solve_shifted(
            operator(hesse.as_operator(DAMPED)), b, SHIFTS, tol=1e-10, preconditioner=inverse, checkpoint=checkpoint
        )
        solutions = [x.tolist() for x in found.solutions]
        return solutions, found.residual_norms.tolist(), found.num_iterations.tolist(), found.num_products
    if question == "frobenius_norm":
        matrix = hesse.as_operator(DECAYING)
        found = hesse.frobenius_norm(operator(matrix), tol=0.02, rng=3, checkpoint=checkpoint)
        return found.estimate, found.standard_error, found.interval, found.num_products, found.method
    if question in ("diagonal", "xdiag", "exact diagonal"):
        matrix, method = (
            hesse.as_operator(DECAYING),
            {"diagonal": "auto", "exact diagonal": "exact"}.get(question, question),
        )
        found = hesse.diagonal(operator(matrix), method=method, tol=0.1, rng=3, checkpoint=checkpoint)
        return found.estimate.tolist(), found.errors.tolist(), found.error_estimate, found.num_products, found.method
    matrix = DECAYING if question in ("hutch++", "xtrace") else SYSTEM
    method = {"trace": "auto"}.get(question, question)
    found = hesse.trace(operator(hesse.as_operator(matrix)), method=method, tol=0.02, rng=3, checkpoint=checkpoint)
    return found.estimate, found.standard_error, found.error_estimate, found.interval, found.num_products, found.method


def live(name: str, path: str, product: str) -> None:
    """Print the digits of an answer, or be killed."""
    last = None if product == "never" else int(product)
    kept = None if path == "none" else hesse.Checkpoint(path, seconds=0)
    if name in ("newton", "levenberg-marquardt"):
        print(repr(minimum(name, kept, last)))
    else:
        print(repr(ask(name, lambda inner: Deadly(inner, last), kept)))


def fork(name: str, path: str, product: str) -> int:
    """The status with which a process that lives so ends."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        live(name, path, product)
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, *words = sys.argv[1:]
    if len(words) == 2:
        live(name, *words)
        sys.exit()
    for path, product in zip(words[::2], words[1::2], strict=True):
        if status := fork(name, path, product):
            print(status, flush=True)
