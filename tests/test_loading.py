"""What importing hesse and its first products load and change, in one fresh process."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hesse._cli

OPTIONAL = (*hesse._cli.PACKAGES, *(f"scipy.{part}" for part in ("linalg", "optimize", "sparse", "special")))
COMPILER = ("torch._dynamo", "torch._inductor", "torch._functorch.partitioners")
PROGRAM = f"""
import sys, torch, torch.utils.data
import torch.nn.functional as F

def loaded(names):
    return [name for name in names if name in sys.modules]

def distributed():
    return [name for name in sys.modules if name.startswith("torch.distributed")]

before = distributed()
import hesse
print("optional packages:", loaded({OPTIONAL!r}))
print("more of torch.distributed:", len(distributed()) - len(before))

x = torch.rand(3, requires_grad=True)
(g,) = torch.autograd.grad(F.hardsigmoid(x).square().sum(), x, create_graph=True)
try:
    torch.autograd.grad(g.sum(), x)
except RuntimeError as error:
    print("plain PyTorch:", error)

x = torch.ones(3)
hesse.vhp(lambda x: (x**3).sum(), x, x)
hesse.Hessian(lambda x: (x**3).sum(), x) @ x
print("compiler after products:", loaded({COMPILER!r}))

from hesse._sparse.detection import hessian_pattern

assert hessian_pattern(lambda x: (x**3).sum(), x).nnz == 3
assert hessian_pattern(lambda x: (x.softmax(1) ** 3).sum(), torch.ones(2, 3)).nnz == 18
print("compiler after a pattern:", loaded({COMPILER[:1]!r}))
"""
# Dynamo takes seconds to load.
CONTROL_FLOW = f"""
x = torch.tensor([1.0, 2.0])
func = lambda x: torch.cond(x.sum() > 0, lambda x: (x**3).sum(), lambda x: x.sum(), (x,))
print("control flow:", hesse.vhp(func, x, x)[1].tolist(), loaded({COMPILER[:1]!r}))
"""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        pytest.param("", [], id="products"),
        pytest.param(
            CONTROL_FLOW,
            ["control flow: [6.0, 24.0] ['torch._dynamo']"],
            id="control flow",
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_importing_and_a_first_product_load_and_change_nothing_they_need_not(more: str, said: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM + more], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "optional packages: []",
        "more of torch.distributed: 0",
        "plain PyTorch: derivative for aten::hardsigmoid_backward is not implemented",
        "compiler after products: []",
        "compiler after a pattern: []",
        *said,
    ]
