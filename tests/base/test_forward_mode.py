"""Forward-mode products that hesse takes do not warn of PyTorch's own affairs."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import torch
import hesse

x = torch.tensor([1.0, 2.0])
{call}
assert "torch._decomp.decompositions_for_jvp" in __import__("sys").modules
"""
CALLS = [
    "hesse.functional.jacobian(torch.sin, x, vectorize=True, strategy='forward-mode')",
    "hesse.functional.hessian(lambda x: x.prod(), x, vectorize=True, outer_jacobian_strategy='forward-mode')",
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.one_in(2)
@pytest.mark.private
def test_the_first_forward_mode_product_of_a_process_does_not_warn(call: str) -> None:
    program = [sys.executable, "-W", "error", "-c", PROGRAM.format(call=call)]
    assert subprocess.run(program, check=False, capture_output=True, text=True).stderr == ""
