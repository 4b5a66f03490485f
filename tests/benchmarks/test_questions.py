"""The benchmark of questions: parts kept when it is cut short, judged answers, and tables; results made up for that."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmarks.eigensolvers import Answer
from benchmarks.eigenvalues_one import K, Truth, least_effort, measure
from benchmarks.harness import QUICK
from benchmarks.table import render
from benchmarks.workloads import gpt

from benchmarks import eigensolvers, eigenvalues_one, questions, results_file

COUNTS = {"products": 100.0, "error": 0.004, "converged": 5}
TRACE = {
    "hutchinson": {**COUNTS, "products": 4000.0, "converged": 1},
    "hutch++": COUNTS,
    "xtrace": COUNTS,
    "auto": COUNTS,
}
EIGENVALUES = {
    "title": "Net",
    "solvers": {
        "hesse": {
            "effort": "tol=1e-04",
            "residual": 3.1e-5,
            "attempts_seconds": 0.06,
            "products": 33,
            "looking": 8,
            "problem": None,
            "median_seconds": 0.05,
            "speedup": 1.0,
        },
        "slow": {
            "effort": "maxIter=100",
            "residual": 9e-5,
            "attempts_seconds": 2.0,
            "products": None,
            "looking": 0,
            "problem": None,
            "median_seconds": 0.5,
            "speedup": 0.1,
        },
        "lost": {"problem": "Not reached in 60 s a run: the best residual was 2.0e-03."},
    },
    "products": {
        "hesse": {"search": [25, 27], "looking": [8, 8]},
        "SciPy on hesse's operator": {"search": [24, 26], "looking": [0, 0]},
    },
}


@pytest.fixture
def commit(monkeypatch):
    """What the environment says of the commit, and a benchmark of two parts that counts how often each is measured."""
    state = SimpleNamespace(name="one", measured=[])
    monkeypatch.setattr(questions.environment, "describe", lambda: {"commit": state.name})

    def part(name):
        state.measured.append(name)
        if name == "trace/second" and state.name == "interrupted":
            raise KeyboardInterrupt
        return TRACE

    names = ("trace/first", "trace/second")
    monkeypatch.setattr(questions, "parts", lambda: {name: lambda name=name: part(name) for name in names})
    return state


def test_a_run_that_is_cut_short_goes_on_with_what_is_left(commit, tmp_path, capsys):
    out = tmp_path / "questions.json"
    commit.name = "interrupted"
    with pytest.raises(KeyboardInterrupt):
        questions.main([], out)
    assert not out.exists()
    commit.measured.clear()
    with pytest.raises(KeyboardInterrupt):
        questions.main([], out)
    assert commit.measured == ["trace/second"]
    # What another commit has measured is not mixed with this one's.
    commit.name = "two"
    commit.measured.clear()
    assert questions.main([], out) == 0
    assert commit.measured == ["trace/first", "trace/second"]
    assert set(json.loads(out.read_text())["parts"]) == {"trace/first", "trace/second"}
    assert [each.name for each in tmp_path.iterdir()] == ["questions.json"]
    assert "| first | 4000 (4 of 5 not) | 100 | 100 | 100 | 40.00 |" in capsys.readouterr().out


def test_some_parts_alone_do_not_replace_the_whole(commit, tmp_path):
    out = tmp_path / "questions.json"
    results_file.write(out, {"parts": {}})
    questions.main(["--only", "trace/second"], out)
    assert commit.measured == ["trace/second"]
    assert json.loads(out.read_text()) == {"parts": {}}
    questions.main(["--only", "trace/second", "--again"], out)
    assert commit.measured == ["trace/second"] * 2


def test_the_tables_set_everybody_beside_hesse_and_say_who_did_not_get_there():
    results = {"parts": {"eigenvalues/net": EIGENVALUES, "eigenvalues/dead": {"problem": "The process was ended."}}}
    assert render(results, "eigenvalues").splitlines()[2:] == [
        "| Net | hesse | 50 ms | 1.00 | 60 ms | 3e-05 | 33, 8 of them to look for missing ones (tol=1e-04) |",
        "| Net | slow | 500 ms | 10.00 | 2 s | 9e-05 | maxIter=100 |",
        "| Net | lost | – | – | – | – | Not reached in 60 s a run: the best residual was 2.0e-03. |",
    ]
    assert render(results, "eigenvalue-products").splitlines()[2:] == ["| Net | 26.0 | 8.0 | 25.0 | 1.04 |"]
    solve = {"minres": {"hesse": 40, "scipy": None, "converged": True, "residual": 1e-9}}
    assert render({"parts": {"solve/x": solve}}, "solves").splitlines()[-1] == "| x | minres | 40 | – |"


@pytest.fixture(scope="module")
def truth():
    return Truth.of(gpt.build(torch.float64, quick=True), 1e-4)


@pytest.mark.exhaustive
def test_the_truth_is_that_of_the_dense_hessian_and_answers_are_judged_by_it(truth):
    workload = gpt.build(torch.float64, quick=True)
    n = workload.num_inputs
    dense = torch.stack([truth.product(row) for row in torch.eye(n, dtype=torch.float64)])
    values, vectors = np.linalg.eigh(0.5 * (dense + dense.mT).numpy())
    np.testing.assert_allclose(truth.values, values[::-1][:K], rtol=1e-6)
    best = torch.from_numpy(vectors[:, ::-1][:, : K + 1].T.copy())
    assert truth.worst(Answer(values[::-1][:K], best[:K])) < 1e-9
    # Every residual is small, but the second is left out.
    kept = [place for place in range(K + 1) if place != 1]
    assert math.isinf(truth.worst(Answer(values[::-1][kept], best[kept])))
    assert truth.worst(Answer(values[::-1][:K] * (1 + 5e-4), best[:K])) == pytest.approx(5e-4, rel=0.01)
    assert math.isinf(truth.worst(Answer(values[::-1][:K] * math.nan, best[:K])))


@pytest.mark.exhaustive
def test_hesse_and_arpack_are_timed_at_the_same_accuracy(truth, monkeypatch):
    solvers = {name: eigensolvers.SOLVERS[name] for name in ("hesse", "SciPy on hesse's operator")}
    monkeypatch.setattr(eigenvalues_one, "SOLVERS", solvers)
    found = measure(gpt.build(quick=True), truth, QUICK, cap=60, seeds=2)
    for row in found["solvers"].values():
        assert row["problem"] is None
        assert row["residual"] <= 1e-4
        assert row["median_seconds"] > 0
    assert found["solvers"]["hesse"]["speedup"] == 1
    assert all(len(counts["search"]) == 2 for counts in found["products"].values())
    assert all(made > 0 for counts in found["products"].values() for made in counts["search"])
    json.dumps(found, allow_nan=False)


def test_who_does_not_reach_the_accuracy_is_said_to(truth, monkeypatch):
    def fails(workload, accuracy):
        yield "once", lambda seed: 1 / 0

    def misses(workload, accuracy):
        for label in ("little", "more"):
            yield label, lambda seed: Answer(truth.values * 2, torch.zeros(K, workload.num_inputs))

    monkeypatch.setattr(eigenvalues_one, "SOLVERS", {"fails": fails, "misses": misses})
    workload = gpt.build(quick=True)
    assert least_effort("fails", workload, truth, 1)[0] == {"problem": "ZeroDivisionError: division by zero."}
    row, call = least_effort("misses", workload, truth, 1)
    assert row == {"problem": "Not reached in 1 s a run: an eigenvalue was missing, or off by more than 0.001."}
    assert call is None
