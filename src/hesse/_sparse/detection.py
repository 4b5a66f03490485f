"""Find the sparsity pattern of a Hessian or Jacobian: which of its entries can differ from zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from hesse._autograd.arguments import Point, check_point, evaluate_scalar
from hesse._autograd.captured import captured
from hesse._autograd.gradients import gradient_to_multiply, zeros_where_none
from hesse._autograd.preserving import preserved
from hesse._autograd.thread_state import inference_mode, interruptible
from hesse._base import memory as budgets
from hesse._base import trees
from hesse._base.errors import warn_caller
from hesse._base.interrupts import Held
from hesse._linearize.protocol import Leaves, Map, Selection
from hesse._linearize.tape import linearize
from hesse._sparse.following import Following
from hesse._sparse.sets import Dependence, Sets
from hesse._sparse.shadows import storage_of

_USELESS = 0.5
"""The part of a matrix that its pattern fills from which on it is of no use."""


def hessian_pattern(func: Callable[..., Any], inputs: Any, memory: int | str | None = None) -> Any:
    """Where the Hessian of a function can differ from zero, as a symmetric boolean ``csr_array`` of shape (n, n).

    The pattern holds at every point where the function makes the same choices by values: branches of Python, orders of
    sorting, indices, entries that a mask selects.

    Args:
        func: takes the inputs, returns a real tensor with a single element.
        inputs: as for :class:`hesse.Hessian`; rows and columns are in the order of its flat vectors.
        memory: the most that finding the pattern may take, as for :class:`hesse.Hessian`.

    Raises:
        MemoryBudgetError: the pattern takes more than ``memory``.
        NotImplementedError: the pattern cannot be followed, or a derivative is missing.
    """
    point = check_point("hessian_pattern", func, inputs)

    def gradient_at(x: tuple[Tensor, ...]) -> tuple[Leaves, Any]:
        output, _ = evaluate_scalar("hessian_pattern", point, x, False, False)
        return zeros_where_none(gradient_to_multiply(output, x, False), x), None

    found = jacobian_pattern_of_map("hessian_pattern", gradient_at, point, func, inputs, memory)
    # The formulas of both sides of the diagonal are not always known equally well.
    symmetric = csr_array(found + found.T)
    symmetric.sort_indices()
    return symmetric


def jacobian_pattern_of_map(
    name: str, map: Map, point: Point, func: Callable[..., Any], inputs: Any, memory: int | str | None
) -> Any:
    """Where the Jacobian of a map of leaves can differ from zero: one product cotangentsᵀ · J, followed."""
    for path, leaf in zip(point.spec.paths, point.leaves, strict=True):
        if storage_of(leaf) is None:
            raise TypeError(
                f"The inputs given to {name} must be dense tensors but {trees.path_name(path) or 'the Tensor'}"
                f" has type {type(leaf).__name__} and layout {leaf.layout}. Give the pattern."
            )
    variables = {storage_of(leaf) for leaf in point.leaves}
    constants = [tensor for _, tensor in captured(func) if storage_of(tensor) not in variables]
    sets = Sets(budgets.budget(memory, torch.device("cpu")))
    following = Following(sets, constants)
    with preserved(func, inputs), Held():
        sizes, products = _followed(name, map, point.leaves, following, sets)
    size = sum(sizes)
    blocks = []
    for leaf, product in zip(point.leaves, products, strict=True):
        part = following.found(product)
        _require_followed(name, product, part)
        part = (
            part
            if part is not None
            else Dependence(torch.zeros(leaf.shape, dtype=torch.int32, device="cpu"), sets.identity(size))
        )
        blocks.append(Dependence(_numbers(part.rows, leaf), part.table))
    rows, table = sets.join(blocks)
    transposed = sets.matrix(Dependence(torch.cat([part.cpu() for part in rows]), table))
    pattern = csr_array(transposed.T.tocsr())
    if following.unknown and pattern.nnz > _USELESS * np.prod(pattern.shape, dtype=float):
        warn_caller(
            f"The sparsity pattern fills more than half of the matrix. {name} knows nothing about"
            f" {', '.join(following.unknown)}, so each of their results was taken to depend on each argument. Give the"
            " pattern, or write the function with other operators."
        )
    return pattern


@interruptible
def _followed(
    name: str, map: Map, leaves: Leaves, following: Following, sets: Sets
) -> tuple[list[int], Sequence[Tensor]]:
    """The lengths of the outputs in flat order, and one product with the sets of its entries."""
    with following, following.reads:
        tape = linearize(map, leaves, name=name)
    lengths = [output.numel() * (2 if output.is_complex() else 1) for output in tape.outputs]
    table = sets.identity(sum(lengths))
    cotangents, first = [], 1
    for output, length in zip(tape.outputs, lengths, strict=True):
        # A tensor of inference mode would be copied, and the copy compared.
        with inference_mode(False):
            cotangent = torch.ones_like(output)
        real = torch.view_as_real(cotangent) if output.is_complex() else cotangent
        rows = torch.arange(first, first + length, dtype=torch.int32, device=output.device)
        following.start(real, Dependence(rows.reshape(real.shape), table))
        cotangents.append(cotangent)
        first += length
    # PyTorch leaves function modes while it computes gradients.
    for node in tape.nodes():
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            node.register_prehook(following.reads.enter)
            node.register_hook(following.reads.leave)
    every = Selection(tuple(range(len(lengths))), tuple(range(len(leaves))))
    with following, following.reads:
        return lengths, tape.rmatvec(cotangents, every, last=True)


def _require_followed(name: str, product: Tensor, part: Dependence | None) -> None:
    """Refuse a product that is not zero where it depends on nothing: numbers have come from outside of PyTorch."""
    sizes = product.detach().abs().nan_to_num(0, 0, 0)
    # Fast convolutions round where kernels are zero.
    lost = sizes > torch.finfo(sizes.dtype).eps ** 0.5 * sizes.max() if sizes.numel() else sizes > 0
    if bool((lost if part is None else lost & (part.rows == 0)).any()):
        raise NotImplementedError(
            f"{name} cannot follow what a derivative depends on: it has numbers that no operator of PyTorch computed"
            " from the vector. Give the pattern."
        )


def _numbers(rows: Tensor, leaf: Tensor) -> Tensor:
    """Rows in flat order: a complex entry is two numbers."""
    return rows.reshape(-1).repeat_interleave(2) if leaf.is_complex() else rows.reshape(-1)
