"""The problems of the benchmark of sparse Hessians, against torch.func, and what their comparison says."""

import numpy as np
import pytest
import torch
from benchmarks.sparse_problems import PROBLEMS

import hesse
from benchmarks import processes, sparse, sparse_one


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_problem_has_a_sparse_hessian(name):
    make, _, tiny = PROBLEMS[name]
    problem = make(tiny // 3)
    constants = [torch.from_numpy(array) for array in problem.constants]
    start = torch.from_numpy(problem.start)
    expected = torch.func.hessian(lambda x: problem.energy(torch, x, *constants))(start)
    expected = expected.reshape(start.numel(), start.numel())
    assert 0 < int((expected != 0).sum()) < start.numel() ** 2
    found = hesse.sparse_hessian(lambda x: problem.energy(torch, x, *constants), start, expected != 0)
    np.testing.assert_allclose(found.to_dense(), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_ratios_are_those_of_one_turn_and_a_difference_is_told(monkeypatch):
    figures = {"problem": None, "colors": 3, "entries": 7, "size": 3, "norm": 2.0, "component": 1.0}
    turns = iter(
        [
            figures | {"first_seconds": 1.0, "again_seconds": 2.0, "peak_mib": 4.0},
            figures | {"first_seconds": 6.0, "again_seconds": 2.0, "peak_mib": 4.0, "component": 1.1},
            figures | {"first_seconds": 3.0, "again_seconds": 1.0, "peak_mib": 8.0, "component": 1.1},
        ]
    )
    monkeypatch.setattr(sparse, "run_fresh", lambda *_, **__: next(turns))
    found = sparse.measure("grid", 1, quick=True)
    assert found["hesse"]["ratios"] == {"first_seconds": 3.0, "again_seconds": 0.5, "peak_mib": 2.0}
    assert found["hesse compiled"]["ratios"]["first_seconds"] == 0.5
    assert not found["hesse"]["agrees"]
    assert found["hesse compiled"]["agrees"]
    assert sparse.view({"rows": [found]}).count("another matrix than asdex's") == 1


def test_what_fails_has_its_reason_and_no_figures(monkeypatch):
    monkeypatch.setitem(sparse_one.CONTESTANTS, "hesse", lambda problem: 1 / 0)
    assert "division by zero" in sparse_one.measure("grid", "hesse", quick=True)["problem"]
    monkeypatch.setattr(sparse, "run_fresh", lambda *_, **__: {"problem": "It is not installed."})
    found = sparse.measure("grid", 1, quick=True)
    assert found["problems"] == dict.fromkeys(sparse.CONTESTANTS, "It is not installed.")
    assert "It is not installed." in sparse.view({"rows": [found]})


def test_a_library_that_does_not_end_is_named_with_its_limit_and_not_run_again(monkeypatch):
    figures = {"problem": None, "colors": 3, "entries": 7, "size": 3, "norm": 2.0, "component": 1.0}
    figures |= {"first_seconds": 1.0, "again_seconds": 2.0, "peak_mib": 4.0}
    runs = []

    def run(module, problem, contestant, *flags, timeout):
        runs.append(contestant)
        return figures if contestant != "asdex" else {"problem": processes.stopped(timeout)}

    monkeypatch.setattr(sparse, "run_fresh", run)
    found = sparse.measure("random field", 2, quick=True)
    assert found["problems"] == {"asdex": "asdex did not end within 300 s"}
    assert runs == [*sparse.CONTESTANTS, "hesse", "hesse compiled"]
    assert "asdex did not end within 300 s" in sparse.view({"rows": [found]})
    assert "1.00 s" in sparse.view({"rows": [found]})
