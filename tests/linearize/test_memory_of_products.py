"""``memory=``: what many products add at their peak, and what happens where memory runs out all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hesse
from hesse._base.errors import MemoryBudgetError
from hesse._linearize import peak
from hesse._linearize.room import Room

from .chunked import Chunked

CPU = torch.device("cpu")
MATRIX = torch.arange(12.0).reshape(3, 4)
ROWS = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
# What allocators say, word for word but for the numbers.
OF_CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
OF_CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:128] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."
)
OF_PYTHON = MemoryError("injected")


def failing_above(most: int, error: BaseException) -> Callable[[Tensor], Tensor]:
    """A product with MATRIX for which memory runs out when more than ``most`` vectors go at once."""

    def multiply(rows: Tensor) -> Tensor:
        if (len(rows) if rows.dim() == 2 else 1) > most:
            raise error
        return rows @ MATRIX.mT

    return multiply


@pytest.mark.parametrize("error", [OF_CUDA, OF_CPU, OF_PYTHON])
@pytest.mark.one_in(3)
def test_out_of_memory_halves_the_chunk_with_one_warning_and_goes_on(error: BaseException) -> None:
    chunked = Chunked("vmap")
    multiply = failing_above(5, error)
    with pytest.warns(UserWarning, match="not enough memory for 16 vectors at once") as caught:
        product = chunked.multiply(multiply, ROWS)
    torch.testing.assert_close(product, ROWS @ MATRIX.mT)
    assert len(caught) == 1
    assert (chunked.chunks.chosen, chunked.chunks.chunk) == ("vmap", 4)
    # Without another warning, which would be an error here.
    torch.testing.assert_close(chunked.multiply(multiply, ROWS), ROWS @ MATRIX.mT)


@pytest.mark.parametrize("error", [OF_CUDA, OF_CPU, OF_PYTHON])
def test_a_trial_that_runs_out_of_memory_is_not_taken_for_unsupported(error: BaseException) -> None:
    chunked = Chunked()
    with pytest.warns(UserWarning, match=r"for 4 vectors at once \(.*\), so at most 1 are"):
        product = chunked.multiply(failing_above(1, error), ROWS)
    torch.testing.assert_close(product, ROWS @ MATRIX.mT)
    assert chunked.chunks.reason == "4 vectors at once do not fit into the memory"


def test_another_error_of_a_batch_is_no_lack_of_memory() -> None:
    chunked = Chunked()
    chunked.multiply(failing_above(1, RuntimeError("no batching rule")), ROWS)
    assert chunked.chunks.reason == "a batch raises: no batching rule"


@pytest.mark.parametrize("error", [OF_CUDA, OF_CPU, OF_PYTHON])
def test_where_not_even_one_vector_fits_one_sentence_says_so(error: BaseException) -> None:
    with pytest.raises(MemoryBudgetError, match=r"There was not enough memory for a single product \(.*\)\. Free some"):
        Chunked().multiply(failing_above(0, error), ROWS)


def wide(x: Tensor) -> Tensor:
    """256 times Σ sin²(2x)/4: keeps and makes tensors of 8 MiB for one of 32 KiB."""
    return (x.repeat(256, 1).sin() * x.cos()).pow(2).sum()


POINT = torch.linspace(0.0, 1.0, 4096, dtype=torch.float64)


def products(V: Tensor) -> Tensor:
    """In closed form: the Hessian is diagonal, of 512 cos(4x)."""
    return 512 * torch.cos(4 * POINT).unsqueeze(-1) * V


MIB = 2**20


def columns(number: int) -> Tensor:
    return torch.randn(4096, number, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def peak_by_profiler(call: Callable[[], Any]) -> int:
    """The peak of the allocator's events, as the public profiler tells of them."""
    with warnings.catch_warnings():
        # PyTorch 2.11 says once that its profiler forgets, at the end, what it has not been asked for.
        warnings.filterwarnings("ignore", "Warning: Profiler clears events")
        with torch.profiler.profile(profile_memory=True) as profile:
            call()
    now = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize("memory", [100 * MIB, pytest.param(400 * MIB, marks=pytest.mark.exhaustive)])
def test_the_peak_of_a_call_stays_within_the_budget_and_makes_use_of_it(memory: int) -> None:
    H = hesse.Hessian(wide, POINT, batching="vmap", memory=memory)
    V = columns(16)
    product = H @ V
    taken = peak_by_profiler(lambda: H @ V)
    assert 0.5 * memory < taken < 1.15 * memory
    assert H.explain().chunk > 1
    assert H.explain().budget == memory
    torch.testing.assert_close(product, products(V))


@pytest.mark.parametrize("batching", ["loop", "vmap"])
@pytest.mark.one_in(2)
def test_the_gauss_newton_matrix_of_a_function_stays_within_its_budget(batching: Any) -> None:
    memory = 200 * MIB
    G = hesse.GaussNewton(lambda x: x.repeat(256, 1).sin(), POINT, memory=memory, batching=batching)
    V = columns(32)
    # JᵀJ is diagonal, of 256 cos²(x).
    torch.testing.assert_close(G @ V, 256 * POINT.cos().square().unsqueeze(-1) * V)
    assert peak_by_profiler(lambda: G @ V) < 1.15 * memory


def test_what_is_measured_is_what_the_profiler_sees() -> None:
    H = hesse.Hessian(wide, POINT)
    one = columns(1)
    assert H @ one is not None
    _, measured = peak.during(lambda: H @ one, CPU)
    assert measured is not None
    assert measured == pytest.approx(peak_by_profiler(lambda: H @ one), rel=0.01)
    assert measured > 8 * MIB


def test_a_measurement_leaves_a_profiler_of_the_users_alone() -> None:
    x = torch.ones(1000)
    with torch.profiler.profile() as profile:
        _, measured = peak.during(lambda: x + 1, CPU)
    assert measured is None
    assert any(event.name == "aten::add" for event in profile.events())


def test_a_product_that_does_not_fit_is_refused_with_what_it_takes() -> None:
    H = hesse.Hessian(wide, POINT, memory="10MiB")
    with pytest.raises(
        MemoryBudgetError,
        match=r"^2 products take about .* MiB \(64 KiB for the results and .* MiB while one of them is made\) but"
        r" memory= allows 10 MiB\. Give more memory, or multiply fewer columns at once\.$",
    ):
        H @ columns(2)
    # One vector is asked for as such, and no call with many.
    assert (H @ columns(1)).shape == (4096, 1)


def test_results_that_do_not_fit_are_refused_before_anything_is_multiplied() -> None:
    H = hesse.Hessian(lambda x: x.pow(3).sum(), POINT, memory="100KiB")
    with pytest.raises(MemoryBudgetError, match=r"8 products take about 256 KiB \(256 KiB for the results\)"):
        H @ columns(8)


def test_a_matrix_that_does_not_fit_is_refused() -> None:
    H = hesse.Hessian(lambda x: x.pow(3).sum(), POINT, memory="127MiB")
    with pytest.raises(MemoryBudgetError, match=r"shape \(4096, 4096\) takes 128 MiB but 127 MiB may be taken"):
        H.to_dense()


def test_without_a_budget_half_of_what_is_available_bounds_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hesse._base.memory.available", lambda device: 400_000)
    H = hesse.Hessian(lambda x: x.pow(3).sum(), POINT)
    with pytest.raises(MemoryBudgetError, match=r"but 50% of what is available now is 195\.3 KiB"):
        H @ columns(16)


def test_what_is_free_is_not_read_for_very_little_once_a_product_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    H = hesse.Hessian(lambda x: x.pow(3).sum(), torch.ones(4), batching="vmap")
    large = hesse.Hessian(lambda x: x.pow(3).sum(), POINT, batching="vmap")
    for A in (H, large):
        A @ torch.eye(A.shape[1], 16)
    read: list[Any] = []
    monkeypatch.setattr("hesse._base.memory.available", lambda device: read.append(device) or 2**36)
    torch.testing.assert_close(H @ torch.eye(4, 2), 6 * torch.eye(4, 2))
    assert not read
    large @ torch.eye(4096, 16)
    assert len(read) == 1
    # Few bytes are no limit to the calls that follow.
    assert H.explain().chunk == 16


def test_a_budget_that_is_none_is_refused_when_the_operator_is_made() -> None:
    with pytest.raises(ValueError, match="memory should be a number of bytes or a size"):
        hesse.Jacobian(torch.sin, POINT, memory="much")


def test_what_a_larger_batch_was_seen_to_take_bounds_the_next() -> None:
    room = Room(CPU, asked=True)
    kept = []
    room.begin(1000, 0, 8)
    room.measured(lambda: kept.append(torch.empty(25)), 1)
    assert room.at_once == 10
    room.measured(lambda: kept.append(torch.empty(250)), 4)
    assert room.at_once == 4


def run(code: str, **environment: str) -> str:
    """What a fresh process prints; its failure is the test's."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Of blocks below its threshold, which rises to 32 MiB by itself, glibc keeps freed pages in a heap full of holes: up to
# 100 MiB here that no tensor uses, in one run more than in another.
# A thread's heap reserves 128 MiB of addresses.
WITHOUT_HOLES = {"MALLOC_MMAP_THRESHOLD_": str(MIB), "MALLOC_ARENA_MAX": "1"}

SETUP = """
    import resource, warnings, torch, hesse
    from pathlib import Path
    torch.set_num_threads(1)
    def wide(x):
        return (x.repeat(256, 1).sin() * x.cos()).pow(2).sum()
    x = torch.linspace(0.0, 1.0, 4096, dtype=torch.float64)
    V = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = 512 * torch.cos(4 * x).unsqueeze(-1) * V
    # What PyTorch loads at its first batched backward is no product's memory.
    hesse.Hessian(wide, x[:2], batching="vmap") @ torch.eye(2, dtype=torch.float64)
    def field(name):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
@pytest.mark.exhaustive
@pytest.mark.parametrize("memory", [100 * MIB, 400 * MIB])
def test_the_peak_of_a_fresh_process_stays_within_the_budget(memory: int) -> None:
    printed = run(
        f"""{SETUP}
    H = hesse.Hessian(wide, x, batching="vmap", memory={memory})
    H @ x
    before = field("VmRSS")
    H @ V
    print(field("VmHWM") - before, H.explain().chunk)
    """,
        **WITHOUT_HOLES,
    )
    taken, chunk = map(int, printed.split())
    assert 0.5 * memory < taken < 1.15 * memory
    assert chunk > 1


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on the address space is Linux's")
@pytest.mark.exhaustive
def test_under_a_hard_limit_of_the_address_space_chunks_are_halved_until_they_fit() -> None:
    printed = run(
        f"""{SETUP}
    # Another engine would be tried on a slow machine, since the named memory has room for it.
    H = hesse.Hessian(wide, x, batching="vmap", memory="100GiB", engine="tape")
    H @ x
    resource.setrlimit(resource.RLIMIT_AS, (field("VmSize") + 200 * 2**20, resource.RLIM_INFINITY))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        product = H @ V[:, :16]
    torch.testing.assert_close(product, expected[:, :16])
    print(len(caught), H.explain().chunk, caught[0].message)
    """,
        **WITHOUT_HOLES,
    )
    number, chunk, message = printed.split(maxsplit=2)
    assert number == "1"
    assert 1 <= int(chunk) < 16
    assert "not enough memory for 16 vectors at once" in message


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="the limit on the address space is Linux's")
def test_under_a_hard_limit_the_default_budget_needs_no_second_attempt() -> None:
    printed = run(
        f"""{SETUP}
    warnings.simplefilter("error")
    H = hesse.Hessian(wide, x, batching="vmap")
    H @ x
    resource.setrlimit(resource.RLIMIT_AS, (field("VmSize") + 400 * 2**20, resource.RLIM_INFINITY))
    torch.testing.assert_close(H @ V, expected)
    print(H.explain().chunk)
    """,
        **WITHOUT_HOLES,
    )
    assert 1 <= int(printed) < 16


def test_warnings_are_not_needed_where_there_is_room() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        H = hesse.Hessian(wide, POINT, memory="2GiB")
        assert (H @ columns(3)).shape == (4096, 3)
    assert H.explain().bytes_each > 8 * MIB
