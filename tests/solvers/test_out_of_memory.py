"""Where an allocator says no, a question says it in a sentence that names itself."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import hesse

SHORT = """
import resource, warnings
import scipy.special, torch, hesse  # what is loaded late is no question's memory

torch.set_num_threads(1)
warnings.simplefilter("ignore")
n = 400_000

class Diagonal(hesse.Operator):
    symmetric = positive_semidefinite = True
    shape, dtype, device = (n, n), torch.float32, torch.device("cpu")

    def matmat(self, V):
        return torch.linspace(1, 2, n)[:, None] * V

A, right = Diagonal(), torch.ones(n, 60)
questions = {
    "spectral_density": lambda: hesse.spectral_density(A, num_probes=10, num_steps=80, rng=0),
    "solve": lambda: hesse.solve(A, right),
    "nystrom": lambda: hesse.nystrom(A, 100, rng=0),
    "solve_shifted": lambda: hesse.solve_shifted(A, right[:, 0], [float(shift) for shift in range(100)]),
    "trace": lambda: hesse.trace(A, method="hutch++", tol=1e-9, rng=0),
    "diagonal": lambda: hesse.diagonal(A, method="xdiag", tol=1e-9, rng=0),
    "logdet": lambda: hesse.logdet(A, tol=1e-9, rng=0),
}
hesse.trace(A, max_products=2, rng=0)
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20, resource.RLIM_INFINITY))
for name, ask in questions.items():
    try:
        ask()
    except hesse.MemoryBudgetError as error:
        print(name, "|", error, "|", type(error.__cause__).__name__)
# What failed holds nothing that would be needed now.
print(hesse.trace(A, max_products=2, rng=0).num_products)
"""


def test_a_limit_of_the_address_space_is_told_by_each_question():
    done = subprocess.run([sys.executable, "-c", SHORT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *told, last = done.stdout.splitlines()
    assert last == "2"
    names = [line.partition(" | ")[0] for line in told]
    assert names == ["spectral_density", "solve", "nystrom", "solve_shifted", "trace", "diagonal", "logdet"]
    for line in told:
        name, sentence, cause = line.split(" | ")
        if name == "nystrom":
            # It counts its vectors before the first product.
            assert re.match(r"nystrom needs [\d.]+ MiB for 303 vectors of 400000 entries, but memory allows", sentence)
            continue
        start = (
            rf"{name} with a Diagonal of shape \(400000, 400000\) ran out of memory: [\d.]+ [MG]iB more could not be"
        )
        assert re.match(start + r" had\. Ask for fewer vectors", sentence), sentence
        assert cause in ("RuntimeError", "MemoryError", "_ArrayMemoryError")


class Failing(hesse.Operator):
    """An operator whose product raises."""

    symmetric, shape, dtype, device = True, (50, 50), torch.float64, torch.device("cpu")

    def __init__(self, error):
        self._error = error

    def matmat(self, V):
        raise self._error


@pytest.mark.parametrize(
    ("error", "more"),
    [
        (MemoryError(), "more"),
        (MemoryError("Unable to allocate 305. MiB for an array with shape (100, 400000)"), "305 MiB more"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1024 bytes. Error"),
            "1 KiB more",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has"), "2.5 GiB more"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "more"),
        (OSError(12, "Cannot allocate memory"), "more"),
    ],
)
def test_every_allocator_is_known(error, more):
    with pytest.raises(
        hesse.MemoryBudgetError, match=rf"^trace with a Failing of shape \(50, 50\) ran .*: {more} could not be"
    ):
        hesse.trace(Failing(error), rng=0)


def test_what_is_no_lack_of_memory_is_raised_as_it_is():
    for error in (RuntimeError("mat1 and mat2"), OSError(2, "No such file"), ValueError("allocate 3 bytes")):
        with pytest.raises(type(error)) as told:
            hesse.trace(Failing(error), rng=0)
        assert told.value is error


def test_a_budget_that_is_told_already_is_not_told_again():
    matrix = torch.from_numpy(np.eye(3000))
    with pytest.raises(hesse.MemoryBudgetError, match=r"^eigsh needs ") as told:
        hesse.eigsh(matrix, 20, memory="1KiB")
    assert told.value.__cause__ is None
