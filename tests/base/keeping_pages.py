"""Pages that are kept: told by counting the faults of new ones, in a process of its own, whose settings then go."""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import hesse
from hesse._base import memory, pages

N = 2**24  # elements of four bytes: blocks twice as large as those that the library keeps by itself
PAGES = 4 * N // resource.getpagesize()

pytestmark = pytest.mark.skipif(
    pages._libc() is None, reason="memory is not handed out by the GNU C library, or a variable says how"
)


def _touch() -> None:
    torch.empty(N).fill_(1)


def _faults(call: Callable[[], object], repeats: int = 5) -> int:
    """Faults of new pages on this thread in so many calls, of which the middle one counts for all.

    A block may find no hole that fits, now and then, and get new pages.
    """
    for _ in range(5):
        call()
    found = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        call()
        found.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
    return repeats * sorted(found)[repeats // 2]


def _is_mapped_afresh(size: int = 2**30) -> bool:
    """Whether a block has a mapping of its own, as the library does by itself; the default is larger than any hole."""
    libc = pages._libc()
    assert libc is not None
    before = libc.mallinfo2().hblkhd
    block = torch.empty(size, dtype=torch.uint8)
    return bool(libc.mallinfo2().hblkhd - before >= block.nbytes)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# Where the system hands out huge pages, there is one fault for each 512.
LEAST = 5 * PAGES // 512


def test_pages_are_kept_and_given_back() -> None:
    _touch()
    before, without = _resident(), _faults(_touch)
    with hesse.keep_memory():
        within = _faults(_touch)
        assert memory.available(torch.device("cpu")) > 0
        assert pages.reusable() >= 4 * N
    assert without >= LEAST
    assert within < without / 20
    assert _is_mapped_afresh()
    assert _resident() < before + 2 * N
    assert pages.reusable() == 0


def test_uses_nest_and_overlap() -> None:
    entered, leave = threading.Event(), threading.Event()

    def elsewhere() -> None:
        with hesse.keep_memory():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=elsewhere)
    with hesse.keep_memory():
        with hesse.keep_memory():
            pass
        assert _faults(_touch) < LEAST
        thread.start()
        entered.wait()
    assert _faults(_touch) < LEAST
    leave.set()
    thread.join()
    assert _is_mapped_afresh()


def test_pages_are_given_back_where_the_block_raises() -> None:
    with pytest.raises(ZeroDivisionError), hesse.keep_memory():  # noqa: PT012  # the block is what is tested
        assert not _is_mapped_afresh(2**27)
        raise ZeroDivisionError
    assert _is_mapped_afresh()


class Large(hesse.Operator):
    """An operator whose products need blocks that glibc would give back, though its vectors are short."""

    shape = (3, 3)
    dtype = torch.float32
    device = torch.device("cpu")
    symmetric = True

    def __init__(self) -> None:
        self.faults: list[int] = []
        self.resident: list[int] = []

    def matmat(self, V: torch.Tensor) -> torch.Tensor:
        self.resident.append(_resident())
        self.faults.append(_faults(_touch, 1))
        return torch.tensor([[3.0], [2.0], [1.0]]) * V


@pytest.mark.parametrize("held", [0, 2**27])
def test_questions_of_a_process_that_uses_much_keep_pages(held: int) -> None:
    mine = torch.ones(held)
    A = Large()
    hesse.solve(A, torch.ones(3))
    assert len(A.faults) >= 3
    if held:
        assert statistics.median(A.faults) < LEAST // 5
    assert _is_mapped_afresh()
    del mine


def test_a_solve_gives_back_what_its_first_product_would_cut_up() -> None:
    with hesse.keep_memory():
        _touch()
        before, A = _resident(), Large()
        assert pages.reusable() >= 4 * N
        hesse.solve(A, torch.ones(3))
    assert A.resident[0] < before - 2 * N


def test_vectors_apart_lie_outside_of_kept_pages() -> None:
    with hesse.keep_memory():
        with pages.apart():
            assert _is_mapped_afresh()
        # What was apart has changed nothing for others.
        assert not _is_mapped_afresh(2**27)
        before, zeros = _resident(), pages.zeros(2, N, torch.float32, torch.device("cpu"))
        assert float(zeros.sum()) == 0
        assert _resident() < before + N
    with pages.apart():
        assert _is_mapped_afresh()


# The file alone, which needs no more of PyTorch for it than a name; loading it would take seconds each time.
SAYS = f"""
import runpy, sys, types
sys.modules["torch"] = types.SimpleNamespace(Tensor=None)
print(runpy.run_path({pages.__file__!r})["_libc"]() is None)
"""


@pytest.mark.parametrize(
    "variables", [{"MALLOC_TRIM_THRESHOLD_": "-1"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0"}, {}]
)
def test_nothing_is_touched_where_the_user_has_decided(variables: dict[str, str]) -> None:
    assert _says(variables) == str(bool(variables))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="another allocator is compiled with gcc")
def test_nothing_is_touched_where_another_allocator_is_loaded(tmp_path: Path) -> None:
    source, library = tmp_path / "other.c", tmp_path / "other.so"
    source.write_text(
        "void *__libc_malloc(unsigned long);\nvoid *malloc(unsigned long n) { return __libc_malloc(n); }\n"
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    assert _says({"LD_PRELOAD": str(library)}) == "True"


def _says(variables: dict[str, str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(hesse.__file__).parents[1]), **variables}
    run = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, env=environment, timeout=600)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()
