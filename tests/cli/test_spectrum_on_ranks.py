"""``torchrun -m hesse spectrum``: one answer, printed and written by the first rank."""

import json
from pathlib import Path

import pytest
import torch

from tests.distributed.launch import HERE, torchrun
from tests.distributed.shared_products import dense


@pytest.mark.exhaustive
def test_two_ranks_print_and_write_one_spectrum(tmp_path: Path) -> None:
    out = tmp_path / "report"
    words = ["spectrum", str(HERE / "problem_of_ranks.py"), "--top", "2", "--bottom", "0", "--probes", "0"]
    run = torchrun("hesse", 2, *words, "--out", str(out), "--dtype", "float64")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("gradient norm") == 1
    found = json.loads((out / "result.json").read_text())
    expected = torch.linalg.eigvalsh(dense()).flip(0)[:2].tolist()
    values = [pair["value"] for pair in found["eigenvalues"]["top"]]
    assert values == pytest.approx(expected, rel=1e-6)
