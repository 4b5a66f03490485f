"""What ``hesse check`` prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import hesse

from .refusals import check_refused

BROKEN = """
    import hesse, torch

    def func(x):
        y = x.sin()
        return (y.detach() * y).sum()

    def problem():
        return hesse.Problem(func=func, inputs=torch.tensor([1.0, 2.0, 3.0]))
"""


def test_all_is_well_is_exit_code_0(write_problem, hesse_command):
    result = hesse_command("check", write_problem())
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[-1] == "All is well."
    assert lines[0] == "variables             3 (float32 on cpu)"
    assert "value                 98" in lines
    assert len(lines) <= 24


def test_a_finding_is_exit_code_1_and_names_the_line_of_the_problem_file(write_problem, hesse_command):
    result = hesse_command("check", write_problem(BROKEN))
    assert result.exit_code == 1
    assert result.stderr == ""
    assert "✗ cut off: problem.py:6\n    return (y.detach() * y).sum()\n" in result.stdout
    assert result.stdout.endswith("1 found.\n")


def test_json_holds_what_the_result_holds(write_problem, hesse_command):
    result = hesse_command("check", write_problem(BROKEN), "--json", "--seed", 3)
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    (finding,) = told["findings"]
    assert (finding["kind"], finding["operator"]) == ("cut off", "Tensor.detach")
    assert (finding["file"], finding["line"]) == ("problem.py", 6)
    assert told["ok"] is False
    assert told["slope"]["verdict"] == "disagrees"
    assert told["curvature"]["precision"] == "float64"
    x = torch.tensor([1.0, 2.0, 3.0])
    assert (
        told["curvature"]["error"]
        == hesse.check(lambda x: (x.sin().detach() * x.sin()).sum(), x, rng=3).curvature.error
    )


def test_what_is_not_finite_is_json_all_the_same(write_problem, hesse_command):
    path = write_problem(
        """
        import hesse, torch

        def problem():
            return hesse.Problem(func=lambda x: (x - 2).log().sum(), inputs=torch.ones(2))
        """
    )
    result = hesse_command("check", path, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["value"] == "nan"


def test_dtype_casts_the_inputs(write_problem, hesse_command):
    result = hesse_command("check", write_problem(), "--dtype", "float64", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "variables             3 (float64 on cpu)" in result.stdout
    assert "rounding" not in result.stdout


def test_nothing_is_written(write_problem, hesse_command):
    hesse_command("check", write_problem())
    assert [path.name for path in Path().iterdir()] == ["problem.py"]


@pytest.mark.parametrize("columns", [32, 200])
def test_facts_do_not_depend_on_the_width_of_the_terminal(columns, write_problem, hesse_command):
    assert "deterministic         yes\n" in hesse_command("check", write_problem(), columns=columns).stdout


@pytest.mark.parametrize("name", ["digits.py", "rosenbrock.py"])
@pytest.mark.exhaustive
def test_the_examples_are_well(name, hesse_command):
    path = Path(__file__).parents[2] / "examples" / name
    result = hesse_command("check", path)
    assert result.exit_code == 0, result.output


MODEL = """
    import hesse, torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 4)

        def forward(self, x):
            y = self.layer(x)
            return y * y.sigmoid()

    def problem():
        torch.manual_seed(0)
        data = torch.utils.data.TensorDataset(torch.randn(10, 3), torch.randint(4, (10,)))
        loader = torch.utils.data.DataLoader(data, batch_size=4)
        return hesse.Problem(model=Net(), loss=torch.nn.CrossEntropyLoss(), data=loader, params="layer.weight")
"""


def test_a_model_is_checked_on_its_first_batch(write_problem, hesse_command):
    path = write_problem(MODEL)
    result = hesse_command("check", path)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(
        "The loss of the first batch of the data:\nvariables             12 (float32 on cpu)\n"
    )
    scope: dict = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    made = scope["problem"]()
    x, y = next(iter(made.data))
    expected = torch.nn.functional.cross_entropy(made.model(x), y).item()
    assert json.loads(hesse_command("check", path, "--json").stdout)["value"] == pytest.approx(expected, rel=1e-6)


def test_a_finding_in_a_model_names_its_line(write_problem, hesse_command):
    result = hesse_command("check", write_problem(MODEL.replace("y.sigmoid()", "y.sigmoid().detach()")))
    assert result.exit_code == 1
    assert "✗ cut off: problem.py:11\n    return y * y.sigmoid().detach()\n" in result.stdout


def test_a_loss_that_is_no_number_is_one_sentence(write_problem, hesse_command):
    result = hesse_command("check", write_problem(MODEL.replace("Loss()", "Loss(reduction='none')")))
    check_refused(result, "should return a Tensor with a single element")


def test_a_failure_in_a_model_is_its_traceback(write_problem, hesse_command):
    result = hesse_command("check", write_problem(MODEL.replace("return y *", "return 1 / 0 *")))
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")
