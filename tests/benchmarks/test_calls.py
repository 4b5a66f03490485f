"""How many calls one product makes: counts, so that what is added to every product is noticed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch

import hesse
from benchmarks import calls

ROOT = Path(__file__).parents[2]


def test_a_product_at_a_kept_point_makes_few_calls() -> None:
    """In a process of its own: where the compiler is loaded, a product also keeps compiled functions from running."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.calls"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    line = re.compile(r"(.+): (\d+) calls in (\d+) files, (\d+) frames to autograd\.grad")
    found = {name: calls.Count(int(a), int(b), int(c)) for name, a, b, c in line.findall(run.stdout)}
    assert list(found) == list(calls.COUNTED)
    hessian = found["Hessian by 4 leaves"]
    assert hessian.calls <= 30
    assert hessian.files <= 7
    assert 1 <= hessian.frames <= 9
    assert found["Hessian by 5 leaves"].calls <= hessian.calls + 2
    assert found["LossHessian over 2 batches"].calls <= 50
    assert found["GaussNewton over 2 batches"].calls <= 90


def test_calls_are_counted_in_their_files() -> None:
    one = hesse.Identity(hesse.as_operator(torch.eye(3)))
    v = torch.ones(3)
    one @ v
    assert calls.count(lambda: None) == (0, 0, 0)
    assert calls.count(lambda: one @ v).files >= 2
