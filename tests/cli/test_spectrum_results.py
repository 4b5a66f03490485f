"""``hesse spectrum``: what it prints and writes, against dense float64 eigenvalues of the same problem."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

FILES = ["index.html", "result.json", "result.safetensors", "spectrum.png"]

# Inputs of two leaves; the Hessian is the weighted Gram matrix and a diagonal.
SOURCE = """
    import hesse, torch

    def problem(device=None, dtype=None):
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(80, 60, generator=generator, dtype=torch.float64).to(device, dtype or torch.float32)
        scale = 1.1 ** torch.arange(60.0).to(rows)

        def func(p):
            x = torch.cat([p["a"].reshape(-1), p["b"]])
            return ((rows @ x) ** 2).sum() / 80 + (scale * x**2).sum() - 30 * x[0] ** 2

        return hesse.Problem(func=func, inputs={"a": torch.ones(5, 4).to(rows), "b": torch.zeros(40).to(rows)})
"""


def dense():
    rows = torch.randn(80, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = 2 * rows.T @ rows / 80 + 2 * torch.diag(1.1 ** torch.arange(60.0, dtype=torch.float64))
    matrix[0, 0] -= 60
    return matrix


def test_the_numbers_it_prints_and_writes_are_those_of_the_dense_hessian(write_problem, hesse_command):
    path = write_problem(SOURCE)
    words = ("--top", 4, "--bottom", 2, "--probes", 5, "--steps", 10, "--dtype", "float64")
    result = hesse_command("spectrum", path, *words, "--out", "report")
    assert result.exit_code == 0, result.output
    assert sorted(entry.name for entry in Path("report").iterdir()) == FILES
    found = json.loads(Path("report/result.json").read_text())
    values, vectors = np.linalg.eigh(dense().numpy())
    assert [pair["value"] for pair in found["eigenvalues"]["top"]] == pytest.approx(values[::-1][:4])
    assert [pair["value"] for pair in found["eigenvalues"]["bottom"]] == pytest.approx(values[:2])
    assert all(pair["bound"] == "tol" for pair in found["eigenvalues"]["top"] + found["eigenvalues"]["bottom"])
    assert all(pair["complete"] for pair in found["eigenvalues"]["top"] + found["eigenvalues"]["bottom"])
    low, high = found["trace"]["interval"]
    assert low <= np.trace(dense()) <= high
    assert found["trace"]["converged"]
    for power in (1, 2, 3, 4):
        estimate, (low, high) = found["density"]["moments"][str(power)]
        assert low <= (values**power).mean() <= high
        assert low < estimate < high
    assert found["size"] == 60
    assert found["dtype"] == "float64"
    assert found["unconverged"] == []
    assert found["num_products"] == sum(found[key]["num_products"] for key in ("trace", "eigenvalues", "density"))
    assert found["peak_memory_bytes"]["process"] > 2**26
    tensors = load_file("report/result.safetensors")
    assert tensors["eigenvectors.a"].shape == (6, 5, 4)
    flat = torch.cat([tensors["eigenvectors.a"].flatten(1), tensors["eigenvectors.b"]], dim=1)
    # Ascending, as the eigenvalues beside them.
    for vector, place in zip(flat, [0, 1, -4, -3, -2, -1], strict=True):
        assert abs(vector.numpy() @ vectors[:, place]) == pytest.approx(1)
    assert torch.allclose(tensors["eigenvalues"], torch.from_numpy(values[[0, 1, -4, -3, -2, -1]]))
    assert np.trapezoid(tensors["density.density"], tensors["density.grid"]) == pytest.approx(1, abs=1e-6)
    for text in (f"{values[-1]:.7g}", f"{values[0]:.7g}", "60", "The page is report/index.html"):
        assert text in result.stdout


@pytest.mark.exhaustive
def test_certified_residuals_are_those_of_true_products(write_problem, hesse_command):
    path = write_problem(SOURCE)
    words = ("--top", 4, "--bottom", 2, "--probes", 0, "--dtype", "float64")
    result = hesse_command("spectrum", path, *words, "--certify", "--out", "report")
    assert result.exit_code == 0, result.output
    found = json.loads(Path("report/result.json").read_text())
    pairs = [*found["eigenvalues"]["bottom"], *found["eigenvalues"]["top"][::-1]]
    tensors = load_file("report/result.safetensors")
    flat = torch.cat([tensors["eigenvectors.a"].flatten(1), tensors["eigenvectors.b"]], dim=1)
    truth = (flat @ dense() - flat * tensors["eigenvalues"].unsqueeze(1)).norm(dim=1)
    assert [pair["residual"] for pair in pairs] == pytest.approx(truth.tolist(), rel=1e-3, abs=1e-12)
    assert found["eigenvalues"]["num_certificate_products"] == 6
    made = [found[key]["num_products"] for key in ("trace", "eigenvalues")]
    assert found["num_products"] == sum(made) + 6
    assert "true residual" in result.stdout
    assert "The residuals are those of products with the vectors" in Path("report/index.html").read_text()
    plain = hesse_command("spectrum", path, *words)
    assert "true residual" not in plain.stdout


@pytest.mark.exhaustive
def test_the_same_seed_gives_the_same_numbers(write_problem, hesse_command):
    path = write_problem(SOURCE)
    for name in ("one", "two"):
        assert hesse_command("spectrum", path, "--seed", 5, "--out", name, "--probes", 2).exit_code == 0
    one, two = (load_file(f"{name}/result.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert Path("one/spectrum.png").read_bytes() == Path("two/spectrum.png").read_bytes()


def test_what_has_not_converged_is_said(write_problem, hesse_command):
    path = write_problem()
    path.write_text(
        "import hesse, torch\n"
        "d = torch.linspace(0, 1, 500)\n"
        "def problem():\n    return hesse.Problem(func=lambda x: (d * x**2).sum(), inputs=torch.ones(500))\n"
    )
    result = hesse_command("spectrum", path, "--max-products", 30, "--probes", 2, "--steps", 10, "--out", "report")
    assert result.exit_code == 0
    assert "of the 10 largest eigenvalues have converged within 30 products" in result.stdout
    found = json.loads(Path("report/result.json").read_text())
    assert len(found["unconverged"]) == 2
    assert "none" in {pair["bound"] for pair in found["eigenvalues"]["top"]}
    assert found["unconverged"][0] in Path("report/index.html").read_text()


@pytest.mark.exhaustive
def test_eigenvalues_that_may_miss_others_are_not_called_converged(write_problem, hesse_command):
    # Residuals are small after twenty products; that nothing is missing would take some more.
    path = write_problem()
    path.write_text(
        "import hesse, torch\n"
        "d = torch.cat([torch.linspace(0, 1, 500), torch.tensor([30.0, 40.0])])\n"
        "def problem():\n    return hesse.Problem(func=lambda x: (d * x**2).sum() / 2, inputs=torch.ones(502))\n"
    )
    words = ("--top", 2, "--bottom", 0, "--probes", 0, "--out", "report")
    assert hesse_command("spectrum", path, *words).exit_code == 0
    needed = json.loads(Path("report/result.json").read_text())["eigenvalues"]
    assert needed["converged"]
    result = hesse_command("spectrum", path, *words, "--max-products", needed["num_products"] - 1)
    assert result.exit_code == 0
    sentence = "The 2 largest eigenvalues have converged, but"
    assert sentence in result.stdout
    found = json.loads(Path("report/result.json").read_text())
    assert not found["eigenvalues"]["converged"]
    assert found["unconverged"][-1].startswith(sentence)
    assert not any(pair["complete"] for pair in found["eigenvalues"]["top"])
    assert sentence in Path("report/index.html").read_text()


@pytest.mark.exhaustive
def test_more_eigenvalues_than_there_are_is_all_of_them(write_problem, hesse_command):
    assert hesse_command("spectrum", write_problem(), "--out", "report").exit_code == 0
    found = json.loads(Path("report/result.json").read_text())["eigenvalues"]
    assert [pair["value"] for pair in found["top"]] == pytest.approx([108, 48, 12])
    assert found["bottom"] == []


def test_nothing_but_the_trace(write_problem, hesse_command):
    result = hesse_command("spectrum", write_problem(), "--top", 0, "--bottom", 0, "--probes", 0, "--out", "report")
    assert result.exit_code == 0, result.output
    found = json.loads(Path("report/result.json").read_text())
    assert found["eigenvalues"] is found["density"] is None
    assert found["trace"]["estimate"] == 168
    assert sorted(entry.name for entry in Path("report").iterdir()) == FILES


@pytest.mark.exhaustive
def test_complex_inputs_have_a_spectrum_of_twice_the_size(write_problem, hesse_command):
    path = write_problem(
        """
        import hesse, torch

        def problem():
            z = torch.tensor([1.0 + 1.0j, 2.0 - 1.0j])
            return hesse.Problem(func=lambda z: (torch.tensor([3.0, 5.0]) * z.abs() ** 2).sum(), inputs=z)
        """
    )
    assert hesse_command("spectrum", path, "--top", 4, "--bottom", 0, "--out", "report").exit_code == 0
    found = json.loads(Path("report/result.json").read_text())
    assert [pair["value"] for pair in found["eigenvalues"]["top"]] == pytest.approx([10, 10, 6, 6], rel=1e-5)


@pytest.mark.exhaustive
def test_a_terminal_shows_the_progress_of_every_step(write_problem):
    path = write_problem(SOURCE)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hesse", "spectrum", str(path)],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    shown = b""
    # The end of a pseudoterminal is an error on Linux.
    with contextlib.suppress(OSError):
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)
    assert process.wait() == 0
    for words in (b"trace", b"eigsh", b"spectral_density", b"of 15 converged", b"of 60 eigenvalues"):
        assert words in shown
    # And takes it away again.
    assert shown.rstrip().endswith(b"\x1b[2K") or b"\x1b[2K" in shown[-200:]


SLOW = """
    import time
    import hesse, torch

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return Slower.apply(grad)

    class Slower(torch.autograd.Function):
        @staticmethod
        def forward(ctx, grad):
            return grad.clone()

        @staticmethod
        def backward(ctx, grad):
            time.sleep(0.02)
            return grad

    d = torch.linspace(0, 1, 400)

    def problem():
        return hesse.Problem(func=lambda x: (d * Slow.apply(x) ** 2).sum(), inputs=torch.ones(400))
"""


def _interrupted(path, times: int) -> tuple[subprocess.Popen[str], str, str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "hesse", "spectrum", str(path), "--out", "report", "--max-products", "5000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not Path("report").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    # By then the trace's products are under way.
    time.sleep(1.5)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.005)
    stdout, stderr = process.communicate(timeout=60)
    return process, stdout, stderr


@pytest.mark.exhaustive
def test_ctrl_c_gives_what_is_known_marked_as_unconverged(write_problem):
    process, stdout, stderr = _interrupted(write_problem(SLOW), times=1)
    assert process.returncode == 130, stderr
    assert "Interrupted: what follows is what was known by then." in stdout
    assert "hesse: stopping after this product; Ctrl-C again stops at once." in stderr
    assert "Traceback" not in stderr
    found = json.loads(Path("report/result.json").read_text())
    assert found["interrupted"] is True
    assert found["unconverged"]
    assert sorted(entry.name for entry in Path("report").iterdir()) == FILES


@pytest.mark.exhaustive
def test_a_second_ctrl_c_stops_at_once_and_leaves_nothing(write_problem):
    process, stdout, stderr = _interrupted(write_problem(SLOW), times=2)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert not Path("report").exists()


def test_what_was_known_before_a_question_fails_is_not_lost(write_problem, hesse_command):
    path = write_problem(SLOW.replace("time.sleep(0.02)", "fail()").replace("import time", FAILING))
    words = ["--top", 2, "--bottom", 0, "--probes", 2, "--steps", 195, "--max-products", 400, "--out", "report"]
    result = hesse_command("spectrum", path, *words)
    assert result.exit_code == 1
    assert "ArithmeticError: a product too many" in result.stderr
    assert "Ended by an error: what follows is what was known by then. a product too many." in result.stdout
    found = json.loads(Path("report/result.json").read_text())
    # The Hessian is diag(2·d).
    assert [pair["value"] for pair in found["eigenvalues"]["top"]] == pytest.approx([2, 2 * 398 / 399], rel=1e-5)
    assert found["trace"] is not None
    assert found["density"] is None
    assert "a product too many" in found["unconverged"][0]


FAILING = """
    left = 300

    def fail():
        global left
        left -= 1
        if left < 0:
            raise ArithmeticError("a product too many")
"""


def test_its_files_say_which_command_made_them(write_problem, hesse_command):
    path = write_problem(name="my problem.py")
    words = (
        "spectrum",
        path,
        "--top",
        1,
        "--bottom",
        0,
        "--probes",
        0,
        "--certify",
        "--dtype",
        "float64",
        "--out",
        "a b",
    )
    assert hesse_command(*words).exit_code == 0
    found = json.loads(Path("a b/result.json").read_text())
    given = shlex.split(found["command"])
    assert given[:3] == ["hesse", "spectrum", "my problem.py"]
    # Options in another order and no default among them; called again, it finds the same.
    assert sorted(given) == sorted(["hesse", *map(str, words)])
    assert hesse_command(*given[1:]).exit_code == 0
    again = json.loads(Path("a b/result.json").read_text())
    assert again["command"] == found["command"]
    assert again["eigenvalues"] == found["eigenvalues"]
