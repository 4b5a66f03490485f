"""The harness, with contestants made up for the test: none of the peers needs to be installed."""

import json
import math

import pytest
import torch
from benchmarks.answers import Reference, reference
from benchmarks.contestants import BASELINE
from benchmarks.contestants.base import CannotRun, Contestant, Prepared
from benchmarks.harness import COLUMNS, QUICK, Budget, measure, one_sentence, paired_speedup
from benchmarks.processes import run_fresh
from benchmarks.workloads.base import Workload, draw_rows

from benchmarks import harness, memory_one, results_file


class Clock:
    """Time that passes only when a contestant says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def quartic(dtype=torch.float32):
    point = torch.tensor([1.0, -2.0, 3.0], dtype=dtype)
    return Workload("quartic", "Quartic", lambda x: (x**4).sum(), point, draw_rows(3, dtype))


def closed_form(workload):
    return 12 * workload.inputs**2 * workload.rows


def fake(name, *, answer=closed_form, seconds=1.0, clock=None, log=None):
    """A contestant with a closed form for its answer and a fixed or listed time for each call."""
    durations = seconds if callable(seconds) else lambda: seconds

    def prepare(workload, rows):
        def call(result):
            if log is not None:
                log.append(name)
            if clock is not None:
                clock.now += durations()
            return result

        return Prepared(
            lone=lambda: call(rows[0]),
            one=lambda: call(rows[0]),
            many=lambda: call(rows),
            flat=lambda a: a,
            flat_many=lambda a: a,
        )

    return Contestant(name, "torch", answer, prepare)


@pytest.fixture
def expected():
    return reference(quartic(torch.float64), torch.float32)


def run(expected, *contestants, budget=QUICK, **options):
    return measure(quartic(), expected, contestants, "base", budget, **options)["contestants"]


def test_the_reference_is_the_closed_form(expected):
    torch.testing.assert_close(expected.rows, closed_form(quartic(torch.float64)))


def test_a_wrong_answer_has_its_error_recorded_and_no_time(expected):
    wrong = fake("wrong", answer=lambda w: 1.01 * closed_form(w))
    results = run(expected, fake("base"), wrong)
    for column in COLUMNS:
        row = results["wrong"]["columns"][column]
        assert row["relative_error"] == pytest.approx(0.01, rel=1e-3)
        assert "wrong" in row["problem"]
        assert "seconds" not in row
        assert results["base"]["columns"][column]["problem"] is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_answer_that_is_not_finite_is_wrong(expected, bad):
    results = run(expected, fake("base"), fake("bad", answer=lambda w: bad * closed_form(w)))
    assert "seconds" not in results["bad"]["columns"]["one"]


def test_an_answer_of_the_wrong_shape_is_wrong(expected):
    results = run(expected, fake("base"), fake("short", answer=lambda w: closed_form(w)[:, :2]))
    assert "seconds" not in results["short"]["columns"]["many"]


def test_a_small_leaf_that_is_wrong_is_not_hidden_by_a_large_one():
    rows = torch.tensor([[1000.0, 20.0]], dtype=torch.float64)
    judge = Reference(rows, sizes=(1, 1), dtype=torch.float32)
    off = fake("off").prepare(quartic(), rows * torch.tensor([1.0, 1.01]))
    assert judge.error(off, "one", off.one()) == pytest.approx(0.01)


def test_a_contestant_that_goes_wrong_later_loses_its_times(expected):
    calls = []

    def prepare(workload, rows):
        right = fake("x").prepare(workload, rows)

        def drift():
            calls.append(None)
            return right.one() * (1.0 if len(calls) < 4 else 2.0)

        return Prepared(right.lone, drift, right.many, right.flat, right.flat_many)

    budget = Budget(0.0, min_rounds=5, max_rounds=5, turn_seconds=0.0, settle_seconds=0.0)
    results = run(expected, fake("base"), Contestant("drift", "torch", closed_form, prepare), budget=budget)
    assert "seconds" not in results["drift"]["columns"]["one"]
    assert "seconds" in results["drift"]["columns"]["many"]


def test_rounds_are_interleaved(expected):
    log = []
    budget = Budget(0.0, min_rounds=3, max_rounds=3, turn_seconds=0.0, settle_seconds=0.0)
    run(expected, fake("base", log=log), fake("b", log=log), fake("c", log=log), budget=budget)
    checks = ["base"] * 2 + ["b"] * 2 + ["c"] * 2
    assert log == (checks + ["base", "b", "c"] * 3) * len(COLUMNS)


def test_a_ratio_is_the_median_of_rounds_that_were_paired():
    # The machine is ten times slower in the second round. Medians taken apart would give 3 / 1.
    assert paired_speedup([2.0, 30.0, 3.0], [1.0, 15.0, 0.5]) == 2.0


def test_measured_ratios_compare_turns_of_the_same_round(expected):
    clock = Clock()
    # Each column has two calls for the check, then three rounds.
    base = iter([1.0, 1.0, 2.0, 30.0, 3.0] * 3)
    other = iter([1.0, 1.0, 1.0, 15.0, 0.5] * 3)
    budget = Budget(0.0, min_rounds=3, max_rounds=3, turn_seconds=0.0, settle_seconds=0.0)
    results = run(
        expected,
        fake("base", seconds=lambda: next(base), clock=clock),
        fake("other", seconds=lambda: next(other), clock=clock),
        budget=budget,
        clock=clock,
    )
    for column in COLUMNS:
        row = results["other"]["columns"][column]
        assert row["seconds"] == pytest.approx([1.0, 15.0, 0.5])
        assert row["speedup"] == pytest.approx(2.0)


def test_rounds_follow_from_the_budget(expected):
    clock = Clock()
    budget = Budget(30.0, min_rounds=2, max_rounds=50, turn_seconds=0.0, settle_seconds=0.0)
    results = run(expected, fake("base", seconds=1.0, clock=clock), budget=budget, clock=clock)
    assert len(results["base"]["columns"]["one"]["seconds"]) == 11


def test_a_fast_contestant_is_called_until_its_turn_is_long_enough(expected):
    clock = Clock()
    budget = Budget(0.0, min_rounds=1, max_rounds=1, turn_seconds=1.0, settle_seconds=0.0)
    results = run(expected, fake("base", seconds=0.25, clock=clock), budget=budget, clock=clock)
    row = results["base"]["columns"]["one"]
    assert row["calls_per_round"] == 4
    assert row["seconds"] == [0.25]


def test_without_a_valid_baseline_there_is_a_time_and_no_ratio(expected):
    results = run(expected, fake("base", answer=lambda w: 2 * closed_form(w)), fake("other"))
    assert results["other"]["columns"]["one"]["speedup"] is None
    assert results["other"]["columns"]["one"]["median_seconds"] >= 0


def test_reasons_for_not_running_are_recorded(expected):
    def refuse(workload, rows):
        raise CannotRun("It takes a network.")

    def explode(workload, rows):
        raise RuntimeError("No kernel at /usr/lib/kernels/one.so for this. Ask somebody.\nMore lines.")

    absent = Contestant("absent", "a_module_that_is_absent", closed_form, refuse)
    results = run(
        expected,
        fake("base"),
        Contestant("choosy", "torch", closed_form, refuse),
        Contestant("broken", "torch", closed_form, explode),
        absent,
    )
    assert results["choosy"]["problem"] == "It takes a network."
    assert results["broken"]["problem"] == "RuntimeError: No kernel at … for this."
    assert results["absent"]["problem"] == "a_module_that_is_absent is not installed."


def test_a_column_that_raises_leaves_the_others(expected):
    def prepare(workload, rows):
        right = fake("x").prepare(workload, rows)

        def refuse():
            raise NotImplementedError("No batches")

        return Prepared(right.lone, right.one, refuse, right.flat, right.flat_many)

    results = run(expected, fake("base"), Contestant("single", "torch", closed_form, prepare))
    columns = results["single"]["columns"]
    assert columns["many"]["problem"] == one_sentence(NotImplementedError("No batches"))
    assert columns["one"]["problem"] is None


def test_garbage_collection_is_on_after_a_measurement(expected):
    run(expected, fake("base"))
    assert harness.gc.isenabled()
    assert harness.gc.get_freeze_count() == 0


def test_results_are_written_whole(tmp_path):
    path = tmp_path / "deep" / "cpu.json"
    results_file.write(path, {"a": 1})
    assert results_file.read(path) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["cpu.json"]


@pytest.mark.parametrize("bad", [{"a": math.nan}, {"a": object()}])
def test_results_that_cannot_be_written_leave_the_old_ones(tmp_path, bad):
    path = tmp_path / "cpu.json"
    results_file.write(path, {"a": 1})
    with pytest.raises((ValueError, TypeError)):
        results_file.write(path, bad)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["cpu.json"]


def test_a_failed_rename_leaves_the_old_results_and_no_debris(tmp_path, monkeypatch):
    path = tmp_path / "cpu.json"
    results_file.write(path, {"a": 1})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(results_file.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        results_file.write(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["cpu.json"]


@pytest.mark.exhaustive
def test_a_fresh_process_measures_memory():
    peak = run_fresh("memory_one", "rosenbrock", BASELINE, "--quick", timeout=120)
    assert peak["problem"] is None
    assert peak["gradient_mib"] > 0


def test_a_process_that_takes_too_long_is_stopped_and_recorded():
    stopped = run_fresh("memory_one", "rosenbrock", BASELINE, timeout=0.01)
    assert stopped == {"problem": "The process was stopped after 0 seconds."}


@pytest.mark.exhaustive
def test_a_process_that_fails_is_recorded():
    failed = run_fresh("memory_one", "rosenbrock", BASELINE, "--no-such-flag", timeout=120)
    assert failed == {"problem": "The process ended with exit status 2."}


@pytest.mark.exhaustive
def test_the_peak_of_memory_counts_what_was_given_back():
    def hold_and_drop():
        assert torch.ones(64 * 2**20 // 4).sum() > 0

    memory_one.reset_peak()
    before = memory_one.peak_mib()
    assert memory_one.peak_during(hold_and_drop) - before > 32
