"""The benchmark of products over data: every contestant is right, and the tables say what was found."""

from __future__ import annotations

import pytest
import torch
from benchmarks.data_problems import BUILDERS, build

from benchmarks import data, data_contestants, views_data
from tests.data.conftest import uncompiled as uncompiled


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("matrix", data_contestants.MATRICES)
def test_every_contestant_multiplies_the_digits_hessian(matrix: str) -> None:
    for module in ("curvlinops", "pyhessian", "hessian_eigenthings"):
        pytest.importorskip(module, reason="peers are installed by make bench alone")
    found = data.products("digits", matrix, seconds=0, quick=True)
    assert {name: row["problem"] for name, row in found["contestants"].items() if row["problem"]} == {}
    assert all(row["relative_error"] < 1e-4 for row in found["contestants"].values())


@pytest.mark.parametrize("name", BUILDERS)
def test_a_problem_is_the_same_loss_in_batches_and_in_one(name: str) -> None:
    problem = build(name, torch.float64, quick=True)
    whole = problem.whole.func(problem.whole.inputs)
    batches = torch.stack([problem.loss(problem.model(x), y) for x, y in problem.batches]).mean()
    torch.testing.assert_close(whole, batches)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.exhaustive
def test_twenty_steps_are_timed_by_both_engines() -> None:
    found = data.steps("digits", seconds=0, quick=True)
    assert found["problems"] == {}
    assert set(found["gain"]) == {"tape", "compiled"}
    assert 1 < found["counted_gain"] < 2


def test_the_tables_have_ratios_to_the_fastest_that_keeps_batches() -> None:
    def row(seconds: float) -> dict[str, object]:
        return {"problem": None, "seconds": [seconds], "median_seconds": seconds}

    contestants = {"hesse": row(0.02), "hesse compiled": row(0.01), "peer": row(0.05)}
    wrong = {"problem": "Its answer is wrong."}
    problem = {
        "matrices": {"hessian": {"title": "Digits", "contestants": {**contestants, "other": wrong}}},
        "steps": {
            "median_seconds": {
                "tape, kept": 1.0,
                "tape, recomputed": 1.4,
                "compiled, kept": 0.7,
                "compiled, recomputed": 0.9,
            },
            "counted_gain": 1.5,
            "gain": {"tape": 1.4, "compiled": 1.3},
        },
        "peaks": {"peer": {"problem": None, "mib": 10.0, "hesse": {"hesse": {"mib": 9.0}}}},
    }
    results = {"problems": {"digits": problem}}
    assert views_data.products(results).splitlines()[-1] == (
        "| Digits: Hessian | 20 ms (2.00x) | **10 ms** | 50 ms (5.00x) | – |"
    )
    assert views_data.steps(results).splitlines()[-1] == (
        "| Digits | 1 s | 1.4 s | 700 ms | 900 ms | 1.40x | 1.50x | 0.93 |"
    )
    assert views_data.peaks(results).splitlines()[-1] == "| Digits: peer | 10.0 | 9.0 | – |"
    assert views_data.problems(results) == "- other, Digits, Hessian: Its answer is wrong."
