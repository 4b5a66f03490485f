"""The pattern of each operator of PyTorch's database holds its second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import hesse
from hesse._sparse.detection import hessian_pattern

from ..sweep.sweep import operators

# Their values at the database's samples are NaN, which says nothing about structure.
NOT_FINITE = {"__rpow__"}
SPARSE = {"sparse_mm_reduce", "to_sparse"}
"""Operators that make sparse tensors of what is followed, which is refused."""


# Of PyTorch's own deprecated functions, and useless patterns of unknown operators.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", sorted(operators().keys() - NOT_FINITE))
def test_the_pattern_of_an_operator_holds_its_second_derivatives(name: str) -> None:
    op = operators()[name]
    torch.default_generator.manual_seed(0)
    for sample in list(op.sample_inputs_func(op, torch.device("cpu"), torch.float64, True))[:3]:
        func, inputs = _sum_of_sines(op, sample)
        if not 0 < sum(leaf.numel() for leaf in inputs) < 300:
            continue
        try:
            H = hesse.Hessian(func, inputs, engine="tape").to_dense()
        except RuntimeError:
            continue  # not differentiable twice here, or not at all
        try:
            found = hessian_pattern(func, inputs).toarray()
        except NotImplementedError:
            assert name in SPARSE
            continue
        assert not ((H != 0).numpy() & ~found).any()


def _sum_of_sines(op: Any, sample: Any) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """A sum of a function of each entry of an operator's outputs, so that entries stay apart."""
    arguments, structure = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    places = [i for i, a in enumerate(arguments) if isinstance(a, Tensor) and a.requires_grad]

    def func(*leaves: Tensor) -> Tensor:
        filled = [argument.clone() if isinstance(argument, Tensor) else argument for argument in arguments]
        for i, leaf in zip(places, leaves, strict=True):
            filled[i] = leaf
        first, rest, named = pytree.tree_unflatten(filled, structure)
        torch.default_generator.manual_seed(2)
        outputs = sample.output_process_fn_grad(op.gradcheck_wrapper(op.get_op(), first, *rest, **named))
        total = torch.zeros((), dtype=torch.float64)
        for output in pytree.tree_leaves(outputs):
            if isinstance(output, Tensor) and output.requires_grad:
                output = output if output.layout is torch.strided else output.to_dense()
                output = torch.view_as_real(output) if output.is_complex() else output
                weights = torch.arange(output.numel(), dtype=torch.float64).mul(2.4).add(1).cos().reshape(output.shape)
                total = total + (output.sin() * weights).sum()
        return total

    leaves = tuple([arguments[i].detach() for i in places])
    return func, leaves if all(leaf.layout is torch.strided for leaf in leaves) else ()
