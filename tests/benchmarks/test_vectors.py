"""The benchmark of one vector and many: every figure there, and a workload that fails beside those that do not."""

from __future__ import annotations

from benchmarks import vectors


def test_a_workload_has_times_and_bytes_for_each_number_of_vectors() -> None:
    row = vectors.measure("rosenbrock", "tape", rounds=2, quick=True)
    assert [one["number"] for one in row["vectors"]] == list(vectors.NUMBERS)
    assert row["vectors"][0]["ratio"] == 1
    assert all(one["seconds_a_vector"] > 0 for one in row["vectors"])
    single, *_, many = [one["bytes_added"] for one in row["vectors"]]
    assert 0 < single < many
    failed = {"workload": "gpt", "asked": "compiled", "problem": "The process was stopped after 9 seconds."}
    lines = vectors.table({"rows": [{"workload": "rosenbrock", "asked": "tape", **row}, failed]}).splitlines()
    assert lines[2].startswith("| rosenbrock | tape | ")
    assert "(1.00x)" in lines[2]
    assert lines[3].startswith("| gpt | compiled | The process was stopped")
