"""The compiled engine in a process: what it loads, leaves behind and needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import hesse


def run(code: str, **variables: str) -> str:
    """What a fresh Python prints; warnings are errors there."""
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


ONE_PROCESSOR = """
import torch, hesse
x = torch.arange(3.0)
print((hesse.Hessian(lambda x: (x**3).sum(), x, engine="compiled") @ torch.ones(3)).tolist())
"""


def test_kernels_are_compiled_where_inductor_has_no_pool_of_processes(tmp_path: Path) -> None:
    # As on a machine with one processor.
    folders = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels"), "HESSE_CACHE_DIR": str(tmp_path / "programs")}
    assert run(ONE_PROCESSOR, TORCHINDUCTOR_COMPILE_THREADS="1", **folders) == "[0.0, 6.0, 12.0]\n"


NO_COMPILER = """
import torch, hesse, warnings
from hesse._linearize import engines
x = torch.ones(3)
def f(x): return (x**3).sum()
try:
    hesse.Hessian(f, x, engine="compiled")
except hesse.CaptureError as error:
    print(error)
# What costs nothing is tried, however long a product takes.
engines.FIXED_PRICE = engines.NODE_PRICE = 0.0
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    H = hesse.Hessian(f, x, engine="auto", expect=engines.FEW)
    for _ in range(2):
        H @ x
    H = H.at(2 * x)
print([str(warning.message) for warning in caught if "tape" in str(warning.message)])
print(H.explain().engine, (H @ x).tolist())
"""


def test_without_a_compiler_there_is_one_sentence_and_the_tape(tmp_path: Path) -> None:
    printed = run(NO_COMPILER, CXX=str(tmp_path / "none"), PATH=str(tmp_path), TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    refusal, caught, product = printed.strip().split("\n")
    what = "a C++ compiler is needed and none was found; install one or name it in the variable CXX"
    assert refusal == f'engine="compiled" cannot take this function: {what}. Use engine="tape", or "auto".'
    assert caught == repr([f'engine="auto" goes on with the tape: {what}.'])
    assert product == "tape [12.0, 12.0, 12.0]"


CACHED = """
import torch, hesse
from torch._dynamo.utils import counters
H = hesse.Hessian(lambda x: (x**3).sum(), torch.ones(3), engine="compiled")
print((H @ torch.ones(3)).tolist(), counters["inductor"]["fxgraph_cache_hit"], H.explain().compile_seconds > 0)
"""


@pytest.mark.exhaustive
def test_a_second_process_finds_the_compiled_code_on_disk(tmp_path: Path) -> None:
    assert run(CACHED, TORCHINDUCTOR_CACHE_DIR=str(tmp_path)).strip() == "[6.0, 6.0, 6.0] 0 True"
    assert run(CACHED, TORCHINDUCTOR_CACHE_DIR=str(tmp_path)).strip() == "[6.0, 6.0, 6.0] 2 True"


def branching(x: Tensor) -> Tensor:
    return (x**3).sum() if x.sum() > 0 else x.sum()


def test_a_failed_attempt_leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    from hesse._linearize.program import inductor

    x = torch.randn(4, dtype=torch.float64).abs()
    with pytest.raises(hesse.CaptureError):
        hesse.Hessian(branching, x, engine="compiled")

    def fails(*arguments: object) -> None:
        raise AssertionError("code generation failed\nand more")

    monkeypatch.setattr(inductor, "compile_fx_inner", fails)
    with pytest.raises(hesse.CaptureError, match="Inductor cannot compile it: code generation failed"):
        hesse.Hessian(lambda x: (x**3).sum(), x, engine="compiled")
    monkeypatch.undo()

    # What one failed compilation of jvp(grad) breaks for the rest of a process.
    _, tangent = torch.func.jvp(torch.func.grad(lambda x: (x**3).sum()), (x,), (x,))
    torch.testing.assert_close(tangent, 6 * x**2)
    checked = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(checkpoint(torch.sin, checked, use_reentrant=False).sum(), checked)
    torch.testing.assert_close(gradient, x.cos())
    compiled = torch.compile(lambda x: torch.sin(x) * 2, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), 2 * torch.sin(x))
    assert torch.equal(hesse.Hessian(lambda x: (x**3).sum(), x) @ x, 6 * x * x)
    assert torch.equal(torch.randn(2) * 0, torch.zeros(2))
