"""The script of checks on a GPU, in its dry mode on the CPU: what a check finds, and how checks are isolated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.gpu_machine import CHECKS, Facts, Machine

from benchmarks import gpu

DRY = Machine(dry=True)
# What is close to float64 in float32, and in bfloat16 by kernels of 16 bits.
CLOSE, SIXTEEN_BITS = 1e-4, 3e-2


@pytest.mark.parametrize(
    "name", ["EFFICIENT_ATTENTION, causal True", "FLASH_ATTENTION, causal False", "GRU", "CTC loss"]
)
def test_products_are_close_to_those_in_float64(name: str) -> None:
    facts = CHECKS[name][1](DRY)
    bound = SIXTEEN_BITS if name.startswith("FLASH") else CLOSE
    assert facts
    assert all(0 < distance < bound for distance in facts.values())


def test_a_distance_is_one_where_products_are_wrong() -> None:
    from benchmarks.gpu_machine import far, numbers

    assert far(2 * numbers(5), numbers(5)) == pytest.approx(1.0)


def test_checks_are_isolated_and_written_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gpu.json"
    seen: list[list[str]] = []

    def broken(machine: Machine) -> Facts:
        raise RuntimeError("no such kernel")

    def second(machine: Machine) -> Facts:
        seen.append([entry["check"] for entry in json.loads(path.read_text())])
        return {"far": 0.5}

    checks = {"broken": (1, broken), "second": (1, second), "long": (1000, second)}
    monkeypatch.setattr(gpu, "CHECKS", checks)
    found = gpu.run(DRY, path, seconds=60)
    assert seen == [["environment", "broken"]]
    assert [entry["check"] for entry in found] == ["environment", *checks]
    assert found[1]["failed"] == "RuntimeError: no such kernel"
    assert found[2]["far"] == 0.5
    assert found[3]["skipped"] == "no time was left"
    assert json.loads(path.read_text()) == found


def test_there_is_time_for_every_check() -> None:
    assert sum(seconds for seconds, _ in CHECKS.values()) < gpu.SECONDS
