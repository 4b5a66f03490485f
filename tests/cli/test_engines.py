"""``--engine``: the same numbers by a compiled program, and one sentence where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hesse._linearize.program.backends import EAGER
from tests.functional.test_compiled_functions import HAS_COMPILER
from tests.linearize import programs

from .test_model_problems import SOURCE

CUBIC = """
    import hesse, torch

    def problem(dtype=torch.float64):
        return hesse.Problem(func=lambda x: (x**3).sum(), inputs=torch.arange(1.0, 6.0, dtype=dtype))
"""


@pytest.mark.skipif(not HAS_COMPILER, reason="programs are compiled by a C++ compiler")
def test_a_compiled_product_and_spectrum_are_those_of_the_cubic(write_problem, hesse_command):
    path = write_problem(CUBIC)
    save_file({"value": torch.ones(5, dtype=torch.float64)}, "v.safetensors")
    result = hesse_command("vhp", path, "--engine", "compiled", "--vector", "v.safetensors", "--out", "p.safetensors")
    assert result.exit_code == 0, result.output
    torch.testing.assert_close(load_file("p.safetensors")["value"], 6 * torch.arange(1.0, 6.0, dtype=torch.float64))
    result = hesse_command(
        "spectrum", path, "--engine", "compiled", "--top", 2, "--bottom", 0, "--probes", 0, "--out", "report"
    )
    assert result.exit_code == 0, result.output
    found = json.loads(Path("report/result.json").read_text())
    assert [pair["value"] for pair in found["eigenvalues"]["top"]] == pytest.approx([30, 24])


def test_a_function_that_no_program_can_hold_is_refused_in_one_sentence(write_problem, hesse_command):
    path = write_problem(CUBIC.replace("(x**3).sum()", "(x**3).sum() if x.sum() > 0 else x.sum()"))
    result = hesse_command("vhp", path, "--engine", "compiled")
    assert result.exit_code == 2
    assert 'engine="compiled" cannot take this function' in result.output
    assert "Traceback" not in result.output


@pytest.mark.exhaustive
def test_a_models_loss_has_the_same_product_by_a_program(write_problem, hesse_command):
    path = write_problem(SOURCE)
    for engine in ("tape", "compiled"):
        with programs.running(EAGER):
            result = hesse_command("vhp", path, "--engine", engine, "--out", f"{engine}.safetensors")
        assert result.exit_code == 0, result.output
    ours, theirs = load_file("compiled.safetensors"), load_file("tape.safetensors")
    for name, entry in theirs.items():
        torch.testing.assert_close(ours[name], entry)


def test_a_model_that_no_program_can_hold_is_refused_in_one_sentence(write_problem, hesse_command):
    branching = "torch.nn.CrossEntropyLoss()"
    path = write_problem(SOURCE.replace(branching, "lambda f, y: (f**2).mean() if f.sum() > -1e9 else f.mean()"))
    result = hesse_command("vhp", path, "--engine", "compiled")
    assert result.exit_code == 2
    assert 'engine="compiled" cannot take this function' in result.output
    assert "Traceback" not in result.output
