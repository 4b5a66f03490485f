"""Budgets: sizes as they are written, and limits as Linux tells them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hesse._base import memory

CPU = torch.device("cpu")
GIB = 2**30


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2 * GIB), ("1.5 GiB", 3 * GIB // 2), ("500MB", 500_000_000), ("64 kib", 65536), ("7B", 7), (4096, 4096)],
)
def test_a_size_is_read_with_its_unit(text: int | str, size: int) -> None:
    assert memory.budget(text, CPU) == size


@pytest.mark.parametrize("text", ["", "2", "2 gigs", "-1GiB", "GiB", "1e3MB"])
def test_what_is_no_size_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r'memory should be a number of bytes or a size such as "2GiB"'):
        memory.budget(text, CPU)


@pytest.mark.parametrize("size", [0, -5, "0GiB"])
def test_a_budget_is_positive(size: int | str) -> None:
    with pytest.raises(ValueError, match="memory should be positive"):
        memory.budget(size, CPU)


@pytest.mark.parametrize("size", [1.5, True, [1]])
def test_a_budget_is_an_int_or_a_string(size: object) -> None:
    with pytest.raises(TypeError, match="memory should be a number of bytes"):
        memory.budget(size, CPU)  # type: ignore[arg-type]  # what is tested


def machine(root: Path, available: int, cgroup: str, files: dict[str, str]) -> Path:
    """A root with the files that tell of memory."""
    for name, text in {
        "proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable: {available // 1024} kB\n",
        "proc/self/cgroup": cgroup,
        **files,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_without_limits_what_the_kernel_calls_available_counts(tmp_path: Path) -> None:
    assert memory.available(CPU, machine(tmp_path, 8 * GIB, "0::/\n", {})) == 8 * GIB


def test_a_group_of_version_2_leaves_its_limit_less_its_use_without_droppable_caches(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/job/step"
    files = {
        f"{group}/memory.max": f"{4 * GIB}\n",
        f"{group}/memory.current": f"{3 * GIB}\n",
        f"{group}/memory.stat": f"anon 1\ninactive_file {GIB}\n",
    }
    assert memory.available(CPU, machine(tmp_path, 8 * GIB, "0::/job/step\n", files)) == 2 * GIB


def test_the_groups_above_count_too(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/job/step/memory.max": "max\n",
        "sys/fs/cgroup/job/step/memory.current": "0\n",
        "sys/fs/cgroup/job/memory.max": f"{GIB}\n",
        "sys/fs/cgroup/job/memory.current": "0\n",
    }
    assert memory.available(CPU, machine(tmp_path, 8 * GIB, "0::/job/step\n", files)) == GIB


def test_a_group_of_version_1_is_read_where_the_container_mounts_it(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory"
    files = {
        f"{group}/memory.limit_in_bytes": f"{2 * GIB}\n",
        f"{group}/memory.usage_in_bytes": f"{GIB}\n",
        f"{group}/memory.stat": f"total_inactive_file {GIB // 2}\n",
    }
    cgroup = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n"
    assert memory.available(CPU, machine(tmp_path, 8 * GIB, cgroup, files)) == 3 * GIB // 2


def test_no_limit_of_version_1_is_none(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory"
    files = {f"{group}/memory.limit_in_bytes": "9223372036854771712\n", f"{group}/memory.usage_in_bytes": "5\n"}
    assert memory.available(CPU, machine(tmp_path, 8 * GIB, "4:memory:/\n", files)) == 8 * GIB


def test_a_group_that_is_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/memory.max": "100\n", "sys/fs/cgroup/memory.current": "200\n"}
    assert memory.available(CPU, machine(tmp_path, 8 * GIB, "0::/\n", files)) == 0


def test_the_default_is_half_of_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 1000)
    assert memory.budget(None, CPU) == 500


@pytest.mark.exhaustive
def test_an_address_space_limit_of_the_process_is_respected() -> None:
    code = (
        "import resource, torch\n"
        "from hesse._base import memory\n"
        "before = memory.available(torch.device('cpu'))\n"
        "used = int(next(l for l in open('/proc/self/status') if l.startswith('VmSize')).split()[1]) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))\n"
        "left = memory.available(torch.device('cpu'))\n"
        "assert before > 2**27 > left > 0, (before, left)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_gives_what_it_has_free() -> None:
    device = torch.device("cuda", 0)
    assert 0 < memory.available(device) <= torch.cuda.get_device_properties(device).total_memory
