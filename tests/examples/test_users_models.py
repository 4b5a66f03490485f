"""The examples of users' models: short, trained, and answered by the command."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from typer.testing import CliRunner

import hesse
from hesse._cli.app import app

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ["convolutional", "hugging_face", "language_model", "physics_informed", "potential", "recurrent"]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_example", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_it_is_at_most_sixty_lines_and_says_how_to_run_it(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 60
    assert f"python examples/{name}.py\nhesse spectrum examples/{name}.py" in text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.one_in(8)
def test_the_command_answers(name: str, tmp_path: Path) -> None:
    words = ["spectrum", EXAMPLES / f"{name}.py", "--top", 1, "--bottom", 0, "--max-products", 4, "--probes", 0]
    result = CliRunner().invoke(app, [*map(str, words), "--out", str(tmp_path / "report")])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "report" / "result.json").read_text())
    assert found["size"] > 50
    assert found["value"] > 0


@pytest.mark.exhaustive
def test_the_language_model_has_learned() -> None:
    made = load("language_model").problem(steps=60)
    _, y, alphabet = load("language_model").sequences()
    frequency = torch.bincount(y.flatten(), minlength=len(alphabet)) / y.numel()
    guessing = float(-(frequency * frequency.clamp(min=1e-9).log()).sum())
    assert made.operator().value < guessing


def test_the_sharpness_of_the_potential_is_the_largest_eigenvalue_of_its_dense_matrix() -> None:
    H = load("potential").problem(steps=50).operator()
    largest = torch.linalg.eigvalsh(H.to_dense().double())[-1]
    torch.testing.assert_close(hesse.eigsh(H, k=1, which="LA", rng=0).values[0], largest, rtol=1e-4, atol=0.0)
