"""PyTorch's database of operators as scalar functions: the sine of a weighted sum of an operator's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Private, and the only such list there is: needs the package expecttest.
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Case:
    """A scalar function through one operator, at a sample of its own."""

    func: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]

    def inputs_to_follow(self) -> tuple[Tensor, ...]:
        """The inputs as new tensors that require gradients."""
        return tuple([leaf.detach().requires_grad_() for leaf in self.inputs])

    def vector(self) -> tuple[Tensor, ...]:
        """A vector to multiply by, of unit length so that a finite difference stays near the point."""
        # The generator's own method: torch.manual_seed also seeds, slowly, every kind of device there might be.
        torch.default_generator.manual_seed(1)
        entries = [torch.randn(leaf.shape, dtype=leaf.dtype) for leaf in self.inputs]
        length = sum(float(entry.abs().square().sum()) for entry in entries) ** 0.5
        return tuple([entry / length if length else entry for entry in entries])


def operators() -> dict[str, OpInfo]:
    """The operators that have a gradient in float64 on the CPU, by name and variant."""
    return {
        op.formatted_name: op
        for op in op_db
        if op.supports_autograd and torch.float64 in op.supported_backward_dtypes("cpu")
    }


def cases_of(op: OpInfo) -> Iterator[Case]:
    """The samples of an operator that have an input to differentiate by."""
    # Not ``op.sample_inputs``: it looks through the whole call stack for the name of a test to seed by.
    torch.default_generator.manual_seed(0)
    for sample in op.sample_inputs_func(op, torch.device("cpu"), torch.float64, True):
        case = _scalar_function(op, sample)
        if any(leaf.numel() for leaf in case.inputs):
            yield case


def _scalar_function(op: OpInfo, sample: SampleInput) -> Case:
    arguments, structure = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    places = [i for i, argument in enumerate(arguments) if isinstance(argument, Tensor) and argument.requires_grad]

    def func(*leaves: Tensor) -> Tensor:
        # Copies, since operators such as batch_norm change some of their arguments.
        filled = [argument.clone() if isinstance(argument, Tensor) else argument for argument in arguments]
        for i, leaf in zip(places, leaves, strict=True):
            filled[i] = _with_values(arguments[i], leaf)
        first, rest, named = pytree.tree_unflatten(filled, structure)
        # Operators that draw have to draw the same at each evaluation.
        torch.default_generator.manual_seed(2)
        # The wrapper symmetrizes what is only defined for symmetric matrices; the processing drops what autograd
        # leaves undefined, as the phases of eigenvectors.
        outputs = sample.output_process_fn_grad(op.gradcheck_wrapper(op.get_op(), first, *rest, **named))
        return torch.sin(weighted_sum(outputs))

    return Case(func, tuple([_values_of(arguments[i].detach()) for i in places]))


def _values_of(argument: Tensor) -> Tensor:
    """What is differentiated by: a matrix in compressed rows by its values; few operations take such a matrix."""
    return argument.values() if argument.layout is torch.sparse_csr else argument


def _with_values(argument: Tensor, leaf: Tensor) -> Tensor:
    if argument.layout is not torch.sparse_csr:
        return leaf
    return torch.sparse_csr_tensor(argument.crow_indices(), argument.col_indices(), leaf, argument.shape)


def weighted_sum(outputs: Any) -> Tensor:
    """The sum of the differentiable outputs, each times irregular weights of its shape."""
    total = torch.zeros((), dtype=torch.float64)
    for output in pytree.tree_leaves(outputs):
        if isinstance(output, Tensor) and output.requires_grad:
            output = output if output.layout is torch.strided else output.to_dense()
            output = output.to(torch.complex128 if output.is_complex() else torch.float64)
            # Not drawn: an engine that records what the function does cannot record a generator.
            angles = torch.arange(output.numel(), dtype=torch.float64).mul(2.4).add(1).reshape(output.shape)
            weights = torch.polar(torch.ones_like(angles), angles) if output.is_complex() else torch.cos(angles) * 1.4
            total = total + (output * weights).sum().real
    return total
