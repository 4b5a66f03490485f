"""Checks that ranks run: the command on a sharded model, and how functions of one are refused."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

import hesse
from hesse._cli.app import app
from tests.distributed.sharded_products import sharded
from tests.distributed.shared_products import LOSS, POINT, X, Y, close, dense, mine, network, predicted, refused

PROBLEM = Path(__file__).with_name("problem_of_shards.py")
NAMES = [name for name, _ in network().named_parameters()]


def shared_folder() -> Path:
    made = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(made)
    return Path(made[0])


def run(*words: object) -> str:
    """What the command prints on this rank."""
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert bool(result.stdout) == (dist.get_rank() == 0)
    return result.stdout


def printed(text: str) -> dict[str, float]:
    rows = re.finditer(r"^(\S+(?: [^\s\d]+)*(?: / \S+)?) {2,}([-+.\deE]+)", text, re.MULTILINE)
    return {row[1]: float(row[2]) for row in rows}


def flat(entries: dict[str, Tensor], prefix: str = "") -> Tensor:
    return torch.cat([entries[f"{prefix}{name}"].flatten(-network().get_parameter(name).dim()) for name in NAMES], -1)


def products_that_the_command_makes() -> None:
    """Numbers over all ranks, whole vectors in files, and a file's vector cut up again."""
    folder = shared_folder()
    first, second = folder / "first.safetensors", folder / "second.safetensors"
    run("vhp", PROBLEM, "--out", first)
    dist.barrier()
    text = run("vhp", PROBLEM, "--vector", first, "--out", second)
    if dist.get_rank() == 0:
        v, product = [flat(load_file(file)) for file in (first, second)]
        close(product, dense() @ v)
        x = POINT.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(LOSS(predicted(x, X), Y), x)
        numbers = printed(text)
        for name, expected in (("gradient norm", gradient.norm()), ("vᵀHv", v @ dense() @ v)):
            close(torch.tensor(numbers[name], dtype=torch.float64), expected, 1e-7)


def the_spectrum_that_the_command_finds() -> None:
    folder = shared_folder()
    run("spectrum", PROBLEM, "--top", 2, "--bottom", 0, "--probes", 0, "--max-products", 76, "--out", folder / "report")
    if dist.get_rank() == 0:
        found = json.loads((folder / "report" / "result.json").read_text())
        values = torch.tensor([pair["value"] for pair in found["eigenvalues"]["top"]], dtype=torch.float64)
        close(values, torch.linalg.eigvalsh(dense()).flip(0)[:2], 1e-6)
        tensors = load_file(folder / "report" / "result.safetensors")
        vectors = flat(tensors, "eigenvectors.")
        close(vectors @ dense(), tensors["eigenvalues"].unsqueeze(-1) * vectors, 1e-5)
    dist.barrier()


def functions_of_a_sharded_model() -> None:
    """None are evaluated, and one sentence says what to do."""
    problem = hesse.Problem(model=sharded(), loss=LOSS, data=mine(X, Y))
    at: Any = problem.inputs
    H = problem.operator()
    refused(NotImplementedError, "Problem cannot differentiate a model of FSDP", problem.function)
    for func in (H.loss_at, problem.func):
        refused(NotImplementedError, "Take at() after a change of the parameters", lambda: hesse.minimize(func, at))  # noqa: B023  # called at once
    result = CliRunner().invoke(app, ["check", str(PROBLEM)])
    assert result.exit_code == 2
    assert "Problem cannot differentiate a model of FSDP" in result.output


CHECKS = [products_that_the_command_makes, the_spectrum_that_the_command_finds, functions_of_a_sharded_model]
