"""Memory that is left, and what is done without when it is not enough."""

from __future__ import annotations

import torch

import hesse
from hesse.checking import comparing, memory

CPU = torch.device("cpu")


def test_the_least_of_machine_and_container_is_left(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:    3000 kB\n")
    monkeypatch.setattr(memory, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory.available(CPU) == 3000 * 1024
    (tmp_path / "memory.max").write_text("2000000\n")
    (tmp_path / "memory.current").write_text("500000\n")
    assert memory.available(CPU) == 1_500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available(CPU) == 3000 * 1024
    (tmp_path / "meminfo").unlink()
    assert memory.available(CPU) == float("inf")
    assert memory.available(torch.device("meta")) == float("inf")


def test_double_precision_is_done_without_where_it_would_not_fit(monkeypatch):
    monkeypatch.setattr(comparing, "available", lambda device: 10.0)
    report = hesse.check(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0]))
    assert report.ok
    assert report.curvature.precision is torch.float32
    assert report.rounding is None
