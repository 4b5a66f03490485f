"""Checkpoints: real processes killed by SIGKILL that go on with the same digits, and files that are refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

import hesse
from tests.solvers.known_matrices import with_eigenvalues

ROOT = Path(__file__).parents[2]
QUESTIONS = (
    "minres",
    "cg",
    "trace",
    "hutch++",
    "xtrace",
    "exact",
    "frobenius_norm",
    "diagonal",
    "xdiag",
    "exact diagonal",
    "eigsh",
    "eigsh of both ends",
    "eigsh by blocks",
    "spectral_density",
    "exact spectral_density",
    "logdet",
    "exact logdet",
    "trace_of",
    "solve_shifted",
    "solve_shifted, preconditioned",
    "newton",
    "levenberg-marquardt",
)


def run(question, *lives):
    """Processes one after another: for each a checkpoint, and the product at which it is killed."""
    command = [sys.executable, "-m", "tests.solvers.checkpointed", question, *map(str, lives)]
    # No threads, which a process may not have before it forks.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def kill_again_and_again(question, path, kills, most, draw):
    """Kill the question at random products, and let it go on each time; the digits at its end, and the kills."""
    killed = 0
    while True:
        done = run(question, path, draw.randint(1, most) if killed < kills else "never")
        if done.returncode == 0:
            return done.stdout, killed
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1


@pytest.mark.parametrize(
    "question", ["eigsh", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("minres", "newton"))]
)
def test_a_question_killed_at_random_products_ends_with_the_same_digits(question, tmp_path):
    product = random.Random(question).randint(1, 40)
    lives = ["none", "never", tmp_path / "state", product, tmp_path / "state", "never"]
    done = run(question, *lives)
    assert done.returncode == 0, done.stderr
    wanted, killed, found = done.stdout.splitlines()
    assert found == wanted
    assert int(killed) == -signal.SIGKILL, done.stderr


@pytest.mark.exhaustive
@pytest.mark.parametrize("question", QUESTIONS)
def test_twenty_kills_leave_the_digits_as_they_are(question, tmp_path):
    wanted = run(question, "none", "never").stdout
    total, draw = 0, random.Random(question)
    # A question may be done before it was killed so often; then it is asked anew.
    for attempt in range(20):
        found, killed = kill_again_and_again(question, tmp_path / f"state{attempt}", 20 - total, 15, draw)
        assert found == wanted
        total += killed
        if total == 20:
            return
    pytest.fail(f"killed only {total} times in 20 attempts")


class Counting(hesse.Operator):
    """The matrix diag(1 … 200) with a count of its products."""

    symmetric = True

    def __init__(self, scale=1.0):
        self.values = scale * torch.linspace(1, 200, 200, dtype=torch.float64).unsqueeze(-1)
        self.shape, self.dtype, self.device = (200, 200), torch.float64, torch.device("cpu")
        self.count = 0

    def matmat(self, V):
        self.count += V.shape[1]
        return self.values * V


def solve_for(products, path):
    return hesse.solve(
        Counting(), torch.ones(200), tol=1e-9, checkpoint=path, callback=lambda p: p.num_products >= products
    )


def test_going_on_costs_no_product_twice_but_the_fingerprints(tmp_path):
    path = hesse.Checkpoint(tmp_path / "state", seconds=0)
    alone = Counting()
    whole = hesse.solve(alone, torch.ones(200), tol=1e-9)
    solve_for(20, path)
    A = Counting()
    found = hesse.solve(A, torch.ones(200), tol=1e-9, checkpoint=path)
    assert torch.equal(found.solution, whole.solution)
    assert found.num_products == whole.num_products
    # Twenty were in the file, and one seeded product tells that the operator is the same.
    assert A.count == alone.count - 20 + 1


def test_a_finished_question_is_answered_again_from_its_file(tmp_path):
    path = hesse.Checkpoint(tmp_path / "state", seconds=0)
    first = hesse.trace(Counting(), method="hutch++", rng=0, checkpoint=path)
    A = Counting()
    again = hesse.trace(A, method="hutch++", rng=0, checkpoint=path)
    assert again == first
    assert A.count == 1


def test_a_file_is_written_only_when_it_is_time(tmp_path):
    hesse.trace(Counting(), rng=0, checkpoint=tmp_path / "state")
    assert not (tmp_path / "state").exists()
    assert list(tmp_path.iterdir()) == []


def test_structured_right_hand_sides_and_shifts_go_on(tmp_path):
    def ask(path=None, stop=10**9):
        H = hesse.Hessian(lambda p: (p["a"] ** 4).sum() + (p["a"].sum() * p["b"]) ** 2, point).shift(3.0)
        return hesse.solve(H, point, tol=1e-6, checkpoint=path, callback=lambda p: p.num_products >= stop)

    point = {"a": torch.linspace(1, 2, 30), "b": torch.tensor(1.0)}
    wanted = ask()
    path = hesse.Checkpoint(tmp_path / "state", seconds=0)
    ask(path, stop=3)
    found = ask(path)
    assert all(torch.equal(found.solution[key], wanted.solution[key]) for key in point)


def test_the_threads_are_taken_over_and_given_back(tmp_path):
    path = hesse.Checkpoint(tmp_path / "state", seconds=0)
    seen = []
    torch.set_num_threads(2)
    try:
        solve_for(5, path)
    finally:
        torch.set_num_threads(1)
    A = Counting()
    multiply = A.matmat
    A.matmat = lambda V: (seen.append(torch.get_num_threads()), multiply(V))[1]
    hesse.solve(A, torch.ones(200), tol=1e-9, checkpoint=path)
    assert set(seen) == {2}
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda path: hesse.solve(Counting(2.0), torch.ones(200), tol=1e-9, checkpoint=path),
            "was written for another operator, or at another point of it",
        ),
        (
            lambda path: hesse.solve(Counting(), torch.zeros(200) + 2, tol=1e-9, checkpoint=path),
            "was written with b [0-9a-f]+, not [0-9a-f]+",
        ),
        (
            lambda path: hesse.solve(Counting(), torch.ones(200), tol=1e-8, checkpoint=path),
            "was written with tol 1e-09, not 1e-08",
        ),
        (
            lambda path: hesse.solve(
                Counting(),
                torch.ones(200),
                tol=1e-9,
                preconditioner=hesse.jacobi(torch.ones(200, dtype=torch.float64)),
                checkpoint=path,
            ),
            r"was written with preconditioner None, not JacobiPreconditioner \(200, 200\) [0-9a-f]+",
        ),
        (lambda path: hesse.trace(Counting(), checkpoint=path), "is of solve, not of trace"),
    ],
    ids=["operator", "b", "tol", "preconditioner", "question"],
)
def test_a_checkpoint_of_something_else_is_refused_and_left_as_it_is(ask, message, tmp_path):
    path = tmp_path / "state"
    solve_for(20, hesse.Checkpoint(path, seconds=0))
    content = path.read_bytes()
    with pytest.raises(hesse.CheckpointError, match=f"^The checkpoint .*{message}, and is left as it is. Give another"):
        ask(hesse.Checkpoint(path, seconds=0))
    assert path.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "foreign"])
def test_a_damaged_checkpoint_is_refused_and_left_as_it_is(damage, tmp_path):
    path = tmp_path / "state"
    solve_for(20, hesse.Checkpoint(path, seconds=0))
    content = path.read_bytes()
    if damage == "foreign":
        safetensors.torch.save_file({"weights": torch.ones(3)}, path)
    else:
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "garbage": b"x" * 1000}[damage])
    content = path.read_bytes()
    with pytest.raises(hesse.CheckpointError, match="is damaged or no checkpoint of hesse, and is left as it is"):
        solve_for(20, path)
    assert path.read_bytes() == content


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    path = tmp_path / "state"
    solve_for(20, hesse.Checkpoint(path, seconds=0))
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["hesse"])
    safetensors.torch.save_file({"": torch.zeros(0)}, path, {"hesse": json.dumps({**header, "version": 99})})
    with pytest.raises(hesse.CheckpointError, match="is of version 99, not 8, and is left as it is"):
        solve_for(20, path)


def test_another_kind_of_operator_is_refused_whatever_it_decides_on(tmp_path):
    H = hesse.Hessian(lambda x: (x**2).sum(), torch.ones(200, dtype=torch.float64))
    for first, second in ((hesse.as_operator(2 * torch.eye(200).double()), H), (H, H.shift(1.0)), (H.shift(1.0), H)):
        path = hesse.Checkpoint(tmp_path / "state", seconds=0)
        hesse.trace(first, rng=0, checkpoint=path)
        with pytest.raises(hesse.CheckpointError, match="was written for another operator"):
            hesse.trace(second, rng=0, checkpoint=path)
        path.path.unlink()


def test_what_a_killed_process_left_is_cleaned_at_the_next_start(tmp_path):
    path = tmp_path / "state"
    solve_for(20, hesse.Checkpoint(path, seconds=0))
    left = tmp_path / ".state.0123abcd.tmp"
    left.mkdir()
    (left / "lock").touch()
    (left / ".tmp123456").write_bytes(b"half of a file")
    # No writing is due in this one.
    solve_for(20, path)
    assert [each.name for each in tmp_path.iterdir()] == ["state"]


def test_a_place_that_cannot_be_written_is_said_before_the_first_product(tmp_path):
    A = Counting()
    with pytest.raises(hesse.CheckpointError, match="cannot be written"):
        hesse.solve(A, torch.ones(200), checkpoint=tmp_path / "nowhere" / "state")
    assert A.count == 0


@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_how_a_hessian_multiplies_is_decided_once_and_no_clock_decides_on_digits_again(batching, tmp_path):
    path = hesse.Checkpoint(tmp_path / "state", seconds=0)

    def ask(stop=10**9, **options):
        H = hesse.Hessian(lambda x: (x**3).sum(), torch.linspace(1, 2, 100), **options)
        shifted = 2 * H.shift(1.0)
        hesse.solve(shifted, torch.ones(100, 20), checkpoint=path, callback=lambda p: p.num_products >= stop)
        return H.explain().batching

    assert ask(stop=40, batching=batching) == batching
    assert ask() == batching


def test_a_sum_over_data_goes_on_as_it_was_decided(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    draw = torch.Generator().manual_seed(0)
    data = [tuple(torch.randn(8, k, generator=draw, dtype=torch.float64) for k in (3, 1)) for _ in range(3)]

    def ask(path=None, stop=10**9, engine="auto"):
        H = hesse.LossHessian(model, torch.nn.MSELoss(), data, engine=engine)
        B = torch.ones(H.shape[0], 2, dtype=torch.float64)
        found = hesse.solve(H.shift(1.0), B, tol=1e-10, checkpoint=path, callback=lambda p: p.num_products >= stop)
        return found.solution, H.explain().choice

    path = hesse.Checkpoint(tmp_path / "state", seconds=0)
    _, choice = ask(path, stop=6)
    solution, again = ask(path)
    assert again == choice
    assert torch.equal(solution, ask(engine=choice)[0])


def test_a_function_that_is_another_one_is_refused(tmp_path):
    path = hesse.Checkpoint(tmp_path / "state", seconds=0)
    words = {"rng": 0, "checkpoint": path}
    hesse.trace_of(torch.sqrt, Counting(), callback=lambda p: p.num_products >= 30, **words)
    content = path.path.read_bytes()
    with pytest.raises(hesse.CheckpointError, match="was written with another f, and is left as it is"):
        hesse.trace_of(torch.log, Counting(), **words)
    assert path.path.read_bytes() == content
    assert hesse.trace_of(torch.sqrt, Counting(), **words) == hesse.trace_of(torch.sqrt, Counting(), rng=0)


def test_a_function_that_differs_where_an_earlier_sample_was_taken_is_refused(tmp_path):
    path, seen = hesse.Checkpoint(tmp_path / "state", seconds=0), []

    def ask(f, stop=10**9):
        A = hesse.Hessian(lambda x: (torch.linspace(0, 1, 2001) * x**2).sum(), torch.zeros(2001))
        words = {"rng": 0, "num_steps": 6, "tol": 1e-9, "max_products": 300, "checkpoint": path}
        return hesse.trace_of(f, A, callback=lambda p: p.num_products >= stop, **words)

    def square(nodes):
        seen.append(nodes.clone())
        return nodes**2

    # Of twenty probes, which are done after 120 products, and of others.
    ask(square, stop=200)
    node = float(next(nodes for nodes in seen if len(nodes) == 6)[3])
    with pytest.raises(hesse.CheckpointError, match="was written with another f, and is left as it is"):
        ask(lambda nodes: torch.where(nodes == node, 5.0, nodes**2))


def test_another_spring_is_another_operator(tmp_path):
    draw = torch.Generator().manual_seed(0)
    stiffness, ends = torch.rand(40, generator=draw), torch.randint(20, (2, 40), generator=draw)

    def ask(stiffness, path):
        H = hesse.Hessian(lambda x: (stiffness * (x[ends[0]] - x[ends[1]]) ** 2).sum() + (x**2).sum(), torch.zeros(20))
        return hesse.solve(H, torch.arange(20.0), checkpoint=path)

    path = hesse.Checkpoint(tmp_path / "state", seconds=0)
    ask(stiffness, path)
    for spring in (ends[0] != ends[1]).nonzero().flatten()[::4].tolist():
        with pytest.raises(hesse.CheckpointError, match="was written for another operator"):
            ask(stiffness.index_fill(0, torch.tensor([spring]), 7.0), path)


@pytest.mark.parametrize("stop", range(1, 60, 7))
@pytest.mark.one_in(8)
def test_damped_systems_that_are_stopped_go_on_where_they_were(stop, tmp_path):
    def ask(path=None, inverse=1.0, stop=10**9, preconditioned=True):
        def preconditioner(shift):
            return hesse.jacobi(inverse + torch.linspace(1, 200, 200, dtype=torch.float64) ** 0.5)

        A = Counting()
        words = {"tol": 1e-9, "checkpoint": path, "callback": lambda p: p.num_products >= stop}
        b = torch.linspace(1, 2, 200, dtype=torch.float64)
        found = hesse.solve_shifted(
            A, b, [2.0, 1.0], preconditioner=preconditioner if preconditioned else None, **words
        )
        return torch.stack(found.solutions), found.num_products, A.count

    path = hesse.Checkpoint(tmp_path / "state", seconds=0)
    wanted, count, _ = ask()
    ask(path, stop=stop)
    with pytest.raises(hesse.CheckpointError, match="was written with another preconditioner"):
        ask(path, inverse=2.0)
    with pytest.raises(hesse.CheckpointError, match="was written with preconditioned True, not False"):
        ask(path, preconditioned=False)
    found, again, made = ask(path)
    assert torch.equal(found, wanted)
    assert again == count
    # One seeded product tells that the operator is the same.
    assert made <= count - min(stop, count - 2) + 1 + 1


@pytest.mark.parametrize("stop", [5, 20, 37, 55])
@pytest.mark.parametrize(
    "ask",
    [
        lambda A, **words: hesse.trace(A, tol=0.02, max_products=300, rng=0, **words),
        lambda A, **words: hesse.trace(A, method="hutch++", tol=0.01, max_products=300, rng=0, **words),
        lambda A, **words: hesse.frobenius_norm(A, tol=0.01, rng=0, **words),
        lambda A, **words: hesse.diagonal(A, tol=0.02, max_products=200, rng=0, **words).estimate.tolist(),
        lambda A, **words: hesse.trace_of(torch.exp, A, tol=0.001, num_steps=8, rng=0, **words),
        lambda A, **words: hesse.eigsh(A, k=3, basis_size=12, rng=0, **words).values.tolist(),
    ],
    ids=["trace", "hutch++", "frobenius_norm", "diagonal", "trace_of", "eigsh"],
)
def test_a_question_that_its_callback_stopped_goes_on_as_if_it_had_not(ask, stop, tmp_path):
    A = with_eigenvalues(np.logspace(-1, 2, 60))
    path = hesse.Checkpoint(tmp_path / "state", seconds=0)
    ask(A, checkpoint=path, callback=lambda p: p.num_products >= stop)
    assert ask(A, checkpoint=path) == ask(A)


def test_a_search_without_products_left_is_answered_again_from_its_file(tmp_path):
    A = torch.diag(0.9 ** torch.arange(150, dtype=torch.float64))
    for most in range(8, 16):
        path = hesse.Checkpoint(tmp_path / str(most), seconds=0)
        words = {"k": 3, "basis_size": 8, "max_products": most, "rng": 0, "checkpoint": path}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", hesse.ConvergenceWarning)
            first, again = hesse.eigsh(A, **words), hesse.eigsh(A, **words)
        assert torch.equal(first.values, again.values)
        assert torch.equal(first.residuals, again.residuals)


def test_a_checkpoint_of_other_random_numbers_is_refused(tmp_path, monkeypatch):
    path = hesse.Checkpoint(tmp_path / "state", seconds=0)
    hesse.trace(2 * torch.eye(200), rng=0, checkpoint=path)
    monkeypatch.setattr("hesse._base.counter_numbers.SCHEME", "others")
    with pytest.raises(
        hesse.CheckpointError, match=r"was written with probes philox4x32-10: .*, not others, and is left"
    ):
        hesse.trace(2 * torch.eye(200), rng=0, checkpoint=path)


@pytest.mark.exhaustive
def test_a_search_that_was_stopped_with_a_full_basis_goes_on_with_the_same_digits(tmp_path):
    A = torch.diag(0.9 ** torch.arange(150, dtype=torch.float64))
    words = {"k": 3, "basis_size": 8, "rng": 0}
    expected = hesse.eigsh(A, **words)
    for stop in range(6, 16):
        path = hesse.Checkpoint(tmp_path / str(stop), seconds=0)
        hesse.eigsh(A, **words, checkpoint=path, callback=lambda p, stop=stop: p.num_products >= stop)
        found = hesse.eigsh(A, **words, checkpoint=path)
        assert torch.equal(found.values, expected.values)
        assert found.num_products == expected.num_products
