"""Problems of a model, a loss and data: the commands' numbers against dense float64 ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hesse
from tests.data import references

SOURCE = """
    import hesse, torch

    def problem():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        generator = torch.Generator().manual_seed(0)
        data = torch.utils.data.TensorDataset(
            torch.randn(10, 3, generator=generator), torch.randint(2, (10,), generator=generator)
        )
        loader = torch.utils.data.DataLoader(data, batch_size=4)
        return hesse.Problem(model=net, loss=torch.nn.CrossEntropyLoss(), data=loader)
"""


def dense(path: Path) -> tuple[torch.Tensor, float]:
    """The Hessian in float64 and the loss, of one large batch."""
    scope: dict = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    made = scope["problem"]()
    x, y = [torch.cat(parts) for parts in zip(*made.data, strict=True)]
    model = made.model.double()
    loss = torch.nn.functional.cross_entropy(model(x.double()), y)
    matrix = references.hessian(model, lambda call: torch.nn.functional.cross_entropy(call(x.double()), y))
    return matrix, loss.item()


def test_spectrum_of_a_models_loss(write_problem, hesse_command):
    path = write_problem(SOURCE)
    result = hesse_command(
        "spectrum", path, "--top", 3, "--bottom", 1, "--probes", 0, "--out", "report", "--dtype", "float64"
    )
    assert result.exit_code == 0, result.output
    found = json.loads(Path("report/result.json").read_text())
    matrix, loss = dense(path)
    values = torch.linalg.eigvalsh(matrix)
    assert [pair["value"] for pair in found["eigenvalues"]["top"]] == pytest.approx(values.flip(0)[:3].tolist())
    assert found["value"] == pytest.approx(loss)
    assert found["size"] == 26
    assert "eigenvectors.2.weight" in load_file("report/result.safetensors")


def test_vhp_of_a_models_loss(write_problem, hesse_command):
    path = write_problem(SOURCE)
    first = hesse_command("vhp", path, "--out", "v.safetensors", "--dtype", "float64")
    assert first.exit_code == 0, first.output
    result = hesse_command("vhp", path, "--vector", "v.safetensors", "--out", "p.safetensors", "--dtype", "float64")
    assert result.exit_code == 0, result.output
    v, product = [
        torch.cat([load_file(file)[name].flatten() for name in ("0.weight", "0.bias", "2.weight", "2.bias")])
        for file in ("v.safetensors", "p.safetensors")
    ]
    torch.testing.assert_close(product, dense(path)[0] @ v)


def test_what_a_model_problem_cannot_do_is_one_sentence(write_problem, hesse_command):
    broken = SOURCE.replace("torch.nn.CrossEntropyLoss()", "torch.nn.CrossEntropyLoss(reduction='none')")
    result = hesse_command("vhp", write_problem(broken))
    assert result.exit_code == 2
    assert "should return a Tensor with a single element" in result.stderr
    nothing = SOURCE.replace("data=loader", "data=loader, params='9.*'")
    result = hesse_command("spectrum", write_problem(nothing))
    assert result.exit_code == 2
    assert "makes no valid problem: No parameter of the model given to Problem matches '9.*'" in result.stderr


@pytest.mark.exhaustive
def test_compare_and_check_take_the_loss_over_all_data_as_a_function(write_problem, hesse_command):
    path = write_problem(SOURCE)
    result = hesse_command("vhp", path, "--compare", "--dtype", "float64")
    assert result.exit_code == 0, result.output
    difference = next(line.split()[-1] for line in result.stdout.splitlines() if line.startswith("difference"))
    assert float(difference) < 1e-12
    result = hesse_command("check", path, "--dtype", "float64")
    assert result.exit_code == 0, result.output


def test_a_problem_is_one_or_the_other():
    net = torch.nn.Linear(1, 1)
    for words in ({"model": net}, {"model": net, "data": [], "func": torch.sin, "inputs": torch.ones(1)}):
        with pytest.raises(TypeError, match="func= and inputs=, or model=, loss= and data=, but this is neither"):
            hesse.Problem(**words)
