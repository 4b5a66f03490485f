"""The benchmarks of many vectors, of engines and of recomputation: every figure there, and what fails beside it."""

from __future__ import annotations

import pytest

from benchmarks import engines, forces, recomputation, table, vectors
from hesse._linearize.program.backends import EAGER
from tests.linearize import programs


def test_a_workload_has_times_and_bytes_for_each_number_of_vectors() -> None:
    row = vectors.measure("rosenbrock", "tape", rounds=2, quick=True)
    assert [one["number"] for one in row["vectors"]] == list(vectors.NUMBERS)
    assert row["vectors"][0]["ratio"] == 1
    assert all(one["seconds_a_vector"] > 0 for one in row["vectors"])
    single, *_, many = [one["bytes_added"] for one in row["vectors"]]
    assert 0 < single < many
    failed = {"workload": "gpt", "asked": "compiled", "problem": "The process was stopped after 9 seconds."}
    rows = {"rows": [{"workload": "rosenbrock", "asked": "tape", **row}, failed]}
    lines = table.render(rows, "vectors").splitlines()
    assert lines[2].startswith("| rosenbrock, tape | ")
    assert "(1.00x)" in lines[2]
    assert lines[3].startswith("| gpt, compiled | The process was stopped")


@pytest.mark.exhaustive
def test_a_workload_says_what_auto_decides_for_and_what_that_takes() -> None:
    row = engines.measure("digits", 0.1, quick=True)
    lines = table.render({"rows": [row]}, "engines").splitlines()
    assert lines[2].startswith(f"| {row['title']} | {row['products']} | ")
    dense = table.render({"rows": [row]}, "dense").splitlines()[2:]
    assert [line.split(" | ")[0] for line in dense] == ["| tape", "| compiled", "| auto"]


@pytest.mark.exhaustive
def test_less_is_kept_the_less_is_allowed() -> None:
    found = recomputation.measure("cnn", quick=True)
    tape, *compiled = [row["kept"] for row in found["rows"]]
    assert tape >= compiled[0]
    assert compiled == sorted(compiled, reverse=True)
    assert compiled[-1] < compiled[0]
    assert found["title"] in table.render({"workloads": [found]}, "recomputation")


@pytest.mark.exhaustive
def test_a_training_gradient_is_timed_each_way_and_trains_alike() -> None:
    with programs.running(EAGER):
        measured = forces.measure(quick=True)
    assert [row["way"] for row in measured["rows"]] == list(forces.WAYS)
    assert all(row["loss_difference"] < 1e-9 for row in measured["rows"])
    lines = table.render(measured, "forces").splitlines()
    assert lines[2].startswith("| PyTorch | ")
    assert "1.00x" in lines[2]


def test_the_table_of_points_that_move_sets_hesse_beside_jax_and_says_what_is_missing() -> None:
    ours = {"seconds": 0.5, "speedup": 4.0, "with_checks": 3.0}
    known = {"torch": {"seconds": 0.002}, "hesse": ours, "JAX": {"seconds": 1.0, "speedup": 2.0}}
    refused = {"torch": {"seconds": 0.002}, "hesse": {"problem": "CaptureError: no program"}, "JAX": {}}
    rows = [{"title": "known", "contestants": known}, {"title": "refused", "contestants": refused}]
    text = table.render({"rows": [*rows, {"title": "ended", "problem": "It ended."}], "note": "A note."}, "moving")
    assert "| known | 2 ms | 4.00x | 3.00x | 2.00x | 2.00 |" in text
    assert "| refused | 2 ms | – | – | – | – |" in text
    assert "| ended | – | – | – | – | – |" in text
    assert text.endswith("A note.")


def test_the_table_of_first_products_has_a_column_for_each_process() -> None:
    row = {"title": "known", "new": {"seconds": 9.04, "processor_seconds": 12.0}, "saved": {"problem": "It ended."}}
    row["JAX"] = {"seconds": 0.5, "processor_seconds": 0.75}
    assert "| known | 9.0 s (12.0) | – | 0.5 s (0.8) |" in table.render({"rows": [row]}, "first")
