"""How many vectors the questions hold at their peak, for the table of docs/accelerators.md.

    OMP_NUM_THREADS=1 python -m benchmarks.question_memory

writes benchmarks/results/question_memory.json.
Each question is asked of a diagonal matrix of float32 with the smallest ``memory=`` that it accepts. Bytes are those of
the allocator's events, so they depend on the release of PyTorch and not on the machine; the matrix's own product is one
vector, which is taken off.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import hesse
from benchmarks import environment, results_file
from benchmarks.views_question_memory import question_memory
from hesse._linearize import peak

N = 2_000_000
VECTOR = 4 * N
B = torch.ones(N)


class Diagonal(hesse.Operator):
    symmetric = True
    positive_semidefinite = True

    def __init__(self) -> None:
        self.values = torch.linspace(1, 2, N).unsqueeze(-1)
        self.shape, self.dtype, self.device = (N, N), torch.float32, torch.device("cpu")

    def matmat(self, V: Tensor) -> Tensor:
        return self.values * V


QUESTIONS: dict[str, Callable[[Diagonal, int], Any]] = {
    "trace": lambda A, memory: hesse.trace(A, tol=0.01, rng=0, memory=memory),
    "diagonal": lambda A, memory: hesse.diagonal(A, tol=0.1, rng=0, memory=memory),
    "frobenius_norm": lambda A, memory: hesse.frobenius_norm(A, tol=0.01, rng=0, memory=memory),
    "spectral_density": lambda A, memory: hesse.spectral_density(A, num_probes=2, num_steps=10, rng=0, memory=memory),
    "trace_of, logdet": lambda A, memory: hesse.logdet(A, num_steps=10, rng=0, memory=memory, max_products=100),
    "eigsh, k=1": lambda A, memory: hesse.eigsh(A, 1, rng=0, memory=memory, max_products=30),
    "eigsh, k=6": lambda A, memory: hesse.eigsh(A, 6, rng=0, memory=memory, max_products=40),
    "solve by conjugate gradients": lambda A, memory: hesse.solve(A, B, method="cg", memory=memory),
    "solve by MINRES": lambda A, memory: hesse.solve(A, B, method="minres", memory=memory),
    "solve_shifted, 3 shifts": lambda A, memory: hesse.solve_shifted(A, B, [0.1, 1.0, 3.0], memory=memory),
    "nystrom, rank 4": lambda A, memory: hesse.nystrom(A, 4, shift=1.0, rng=0, memory=memory),
}
# The right-hand side is the caller's, and there before.
WITH_SIDE = ("solve by", "solve_shifted")


def vectors(call: Callable[[], Any]) -> float:
    """The vectors that a call holds at its peak beside the operator's product."""
    _, taken = peak.during(call, torch.device("cpu"))
    assert taken is not None
    return taken / VECTOR - 1


def main() -> None:
    warnings.simplefilter("ignore", hesse.ConvergenceWarning)
    A = Diagonal()
    rows: list[dict[str, Any]] = []
    for name, ask in QUESTIONS.items():
        for least in range(1, 100):
            try:
                # Small matrices are beside the vectors.
                held = vectors(lambda ask=ask, least=least: ask(A, least * VECTOR + VECTOR // 10))
            except hesse.MemoryBudgetError:
                continue
            held += name.startswith(WITH_SIDE)
            rows.append({"question": name, "least": least, "held": math.ceil(10 * held) / 10})
            break
    results = {"environment": environment.describe(), "rows": rows}
    results_file.write(results_file.FOLDER / "question_memory.json", results)
    print(question_memory(results))


if __name__ == "__main__":
    main()
