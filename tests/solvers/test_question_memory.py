"""What questions hold at their peak, by the allocator's own events, and that they say beforehand what they need."""

from __future__ import annotations

import pytest
import torch

import hesse
from hesse._linearize import peak

N = 500_000
VECTOR = 4 * N
SIDES = torch.stack([torch.linspace(-1, 1, N), torch.ones(N), torch.linspace(0, 2, N) ** 2]).mT


class Diagonal(hesse.Operator):
    """A diagonal matrix of float32, whose product takes one vector."""

    symmetric = True
    positive_semidefinite = True

    def __init__(self, scale=1.0):
        self.values = (torch.linspace(1, 2, N) * scale).unsqueeze(-1)
        self.shape, self.dtype, self.device = (N, N), torch.float32, torch.device("cpu")

    def matmat(self, V):
        return self.values * V


QUESTIONS = {
    "trace": lambda A, memory: hesse.trace(A, tol=0.1, rng=0, memory=memory),
    "hutch++": lambda A, memory: hesse.trace(A, method="hutch++", tol=0.1, rng=0, memory=memory, max_products=60),
    "diagonal": lambda A, memory: hesse.diagonal(A, tol=0.1, rng=0, memory=memory),
    "frobenius_norm": lambda A, memory: hesse.frobenius_norm(A, tol=0.1, rng=0, memory=memory),
    "spectral_density": lambda A, memory: hesse.spectral_density(A, num_probes=2, num_steps=9, rng=0, memory=memory),
    "trace_of": lambda A, memory: hesse.trace_of(torch.log, A, num_steps=9, rng=0, memory=memory, max_products=45),
    "logdet": lambda A, memory: hesse.logdet(A, num_steps=9, rng=0, memory=memory, max_products=45),
    "eigsh": lambda A, memory: hesse.eigsh(A, 1, rng=0, memory=memory, max_products=20),
    "cg": lambda A, memory: hesse.solve(A, SIDES[:, 0], method="cg", memory=memory),
    "minres": lambda A, memory: hesse.solve(A, SIDES[:, 0], method="minres", memory=memory),
    "cg, three columns": lambda A, memory: hesse.solve(A, SIDES, method="cg", memory=memory),
    "minres, from a start": lambda A, memory: hesse.solve(A, SIDES, x0=SIDES, method="minres", memory=memory),
    "solve_shifted": lambda A, memory: hesse.solve_shifted(A, SIDES[:, 0], [0.1, 1.0, 3.0], memory=memory),
    "nystrom": lambda A, memory: hesse.nystrom(A, 4, shift=1.0, rng=0, memory=memory),
}
# How many vectors a question needs at least; small matrices of ``eigsh`` are beside.
LEAST = {
    "trace": 4,
    "hutch++": 8,
    "diagonal": 4,
    "frobenius_norm": 4,
    "spectral_density": 4,
    "trace_of": 4,
    "logdet": 4,
}
LEAST["eigsh"] = 12
# With b, which is the caller's and there before.
LEAST |= {"cg": 6, "minres": 8, "cg, three columns": 10, "minres, from a start": 12, "solve_shifted": 10, "nystrom": 15}
# Blocks of random numbers while they are made.
BESIDE = 2**20


@pytest.mark.filterwarnings("ignore::hesse.ConvergenceWarning")
@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.one_in(5)
def test_a_question_holds_as_few_vectors_as_it_says_and_refuses_fewer(name):
    ask, least = QUESTIONS[name], LEAST[name] * VECTOR + (1000 if name == "eigsh" else 0)
    with pytest.raises(
        hesse.MemoryBudgetError, match=r" needs [\d.]+ MiB for .* but memory allows [\d.]+ [MK]iB on cpu"
    ):
        ask(Diagonal(), LEAST[name] * VECTOR - 1)
    A = Diagonal()
    for memory in (least, 5 * least):
        found, taken = peak.during(lambda memory=memory: ask(A, memory), A.device)
        assert found.num_products > 0
        # The product of the operator is its own.
        assert taken <= memory + VECTOR + BESIDE


@pytest.mark.parametrize("name", ["trace", "diagonal", "frobenius_norm", "spectral_density"])
@pytest.mark.one_in(3)
def test_units_of_a_small_operator_take_one_vector_more_of_its_product(name):
    A = Diagonal(1e-20)
    _, taken = peak.during(lambda: QUESTIONS[name](A, LEAST[name] * VECTOR), A.device)
    assert taken <= (LEAST[name] + 1) * VECTOR + BESIDE


@pytest.mark.filterwarnings("ignore::hesse.ConvergenceWarning")
def test_a_basis_takes_its_new_vector_in_place():
    A = Diagonal()
    _, taken = peak.during(lambda: QUESTIONS["eigsh"](A, LEAST["eigsh"] * VECTOR + 1000), A.device)
    # Four vectors with their products, the last product, and what is new of it.
    assert taken <= 10 * VECTOR + BESIDE


def test_a_sum_of_operators_takes_one_vector_beside_a_product():
    A = (Diagonal() + 2 * Diagonal() + 3 * Diagonal()).shift(0.5)
    v = torch.ones(N)
    found, taken = peak.during(lambda: A @ v, A.device)
    torch.testing.assert_close(found, 6 * torch.linspace(1, 2, N) + 0.5)
    assert taken <= 2 * VECTOR + BESIDE


def test_the_least_memory_gives_the_answer():
    diagonal = torch.linspace(1, 2, N)
    memory = 4 * VECTOR
    assert hesse.trace(Diagonal(), tol=1e-3, rng=0, memory=memory).estimate == pytest.approx(1.5 * N, rel=1e-3)
    torch.testing.assert_close(hesse.diagonal(Diagonal(), rng=0, memory=memory).estimate, diagonal)
    norm = float(diagonal.double().norm())
    assert hesse.frobenius_norm(Diagonal(), rng=0, memory=memory).estimate == pytest.approx(norm, rel=1e-3)


def test_a_checkpoint_keeps_how_much_is_held_and_is_refused_where_that_does_not_fit(tmp_path):
    path = hesse.Checkpoint(tmp_path / "state", seconds=0)
    words = {"tol": 0, "max_products": 60, "rng": 0}
    widths = []

    class Watched(Diagonal):
        def matmat(self, V):
            widths.append(V.shape[1])
            return super().matmat(V)

    hesse.trace(Watched(), **words, memory=24 * VECTOR, checkpoint=path, callback=lambda p: p.num_products >= 9)
    assert set(widths[1:]) == {3}
    with pytest.raises(
        hesse.CheckpointError, match="was written by a run that held up to 24 vectors, where memory allows"
    ):
        hesse.trace(Watched(), **words, memory=5 * VECTOR, checkpoint=path)
    widths.clear()
    # More memory than then changes nothing.
    hesse.trace(Watched(), **words, memory=200 * VECTOR, checkpoint=path, callback=lambda p: p.num_products >= 30)
    assert max(widths) == 3


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_size_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="memory should be a number of bytes or a size"):
        QUESTIONS[name](torch.eye(4), "much")


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 8.00 GiB total capacity)",
        "HIP out of memory. Tried to allocate 2.00 GiB.",
        "XPU out of memory. Tried to allocate 1.00 GiB.",
        "MPS backend out of memory (MPS allocated: 17.00 GB, other allocations: 1.00 GB, max allowed: 18.00 GB).",
        "Invalid buffer size: 40.00 GiB",
        "CUDA error: out of memory",
        "hipErrorOutOfMemory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "HIPBLAS_STATUS_ALLOC_FAILED",
        "rocblas_status_memory_error",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        "miopenStatusAllocFailed",
        "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
        "UR_RESULT_ERROR_OUT_OF_HOST_MEMORY",
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 B.",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8000000 bytes.",
    ],
)
@pytest.mark.one_in(4)
def test_every_allocators_words_are_one_sentence(message):
    class Exhausted(Diagonal):
        def matmat(self, V):
            raise RuntimeError(message)

    with pytest.raises(
        hesse.MemoryBudgetError, match=r"^trace with a Exhausted of shape \(500000, 500000\) ran out of"
    ):
        hesse.trace(Exhausted(), rng=0)


def test_other_failures_are_not_taken_for_memory():
    class Failing(Diagonal):
        def matmat(self, V):
            raise RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED: the memory format is not supported")

    with pytest.raises(RuntimeError, match="EXECUTION_FAILED"):
        hesse.trace(Failing(), rng=0)
