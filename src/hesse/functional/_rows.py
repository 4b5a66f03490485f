"""Whole Jacobians: one backward a row, all rows in one batched backward, or all columns in one batched jvp."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from hesse._autograd.agreement import FACTOR, coarsest, disagreement, halves
from hesse._autograd.evaluation import inside_transform
from hesse._autograd.gradients import Gradients, MissingDerivative, gradients, zeros_where_none
from hesse._base.errors import NoDerivativeError, first_line
from hesse._base.fixed_draws import fixed_generator, random_like
from hesse._base.forward_mode import jvp
from hesse._base.interrupts import is_unrelated
from hesse._base.several_ranks import is_dtensor

Blocks = list[list[Tensor]]
"""``blocks[i][j]``: derivative of output i by input j, of shape ``output.shape + input.shape``."""


def by_rows(outputs: Sequence[Tensor], x: Sequence[Tensor], create_graph: bool, strict: bool) -> Blocks:
    """One backward for each element of each output."""
    blocks = []
    for i, output in enumerate(outputs):
        _require_real_and_whole(output)
        basis = torch.zeros_like(output).reshape(-1)
        rows = [_Rows(output, leaf) for leaf in x]
        for element in range(output.nelement()):
            basis[element] = 1
            cotangent = basis.clone().reshape(output.shape)
            basis[element] = 0
            row = gradients((output,), x, (cotangent,), create_graph=create_graph, retain_graph=True)
            for j, (entry, leaf) in enumerate(zip(row, x, strict=True)):
                if strict:
                    _require_row(entry, i, j, create_graph)
                rows[j].append(torch.zeros_like(leaf) if entry is None else entry)
        blocks.append([column.block() for column in rows])
    return blocks


def by_batch(outputs: Sequence[Tensor], x: Sequence[Tensor], create_graph: bool) -> Blocks:
    """One backward, batched over the standard basis of all outputs together."""
    for output in outputs:
        _require_real_and_whole(output)
    numels = [output.nelement() for output in outputs]
    if sum(numels) == 0:
        return by_rows(outputs, x, create_graph, strict=False)  # A batch may not be empty.
    bases = _standard_basis(outputs, numels)
    flat = [output.reshape(-1) for output in outputs]
    try:
        batched = gradients(flat, x, bases, create_graph=create_graph, retain_graph=True, batched=True)
    except Exception as error:
        if isinstance(error, MissingDerivative | NoDerivativeError) or is_unrelated(error):
            raise
        # Whatever a backward of the user's own raises on a batch, it is the batch that it cannot do.
        raise RuntimeError(
            f"A batched backward, which vectorize=True asks for, raises: {first_line(error)}. Call with"
            " vectorize=False."
        ) from error
    _check_batch(flat, x, bases, batched)
    columns = [
        torch.zeros_like(leaf).expand(sum(numels), *leaf.shape) if entry is None else entry
        for entry, leaf in zip(batched, x, strict=True)
    ]
    splits = [column.split_with_sizes(numels) for column in columns]
    return [
        [split[i].reshape(output.shape + leaf.shape) for split, leaf in zip(splits, x, strict=True)]
        for i, output in enumerate(outputs)
    ]


def _check_batch(flat: Sequence[Tensor], x: Sequence[Tensor], bases: Sequence[Tensor], batched: Gradients) -> None:
    """Compare a random combination of the rows with one plain backward of the same combination."""
    generator = fixed_generator(torch.device("cpu"))
    # Real weights, since products with complex rows are antilinear.
    weights = [random_like(output.real, generator).to(output.dtype) for output in flat]

    def product(cotangents: Sequence[Tensor]) -> Sequence[Tensor]:
        return zeros_where_none(gradients(flat, x, cotangents, retain_graph=True), x)

    def singly(factor: float = 1.0) -> Sequence[Tensor]:
        return product([factor * weight for weight in weights])

    def apart() -> Iterator[Sequence[Tensor]]:
        numels = [len(weight) for weight in weights]
        for mask in halves(sum(numels)):
            masks = [
                part.to(weight.device) for part, weight in zip(mask.split_with_sizes(numels), weights, strict=True)
            ]
            first = [weight * part for weight, part in zip(weights, masks, strict=True)]
            second = [weight * ~part for weight, part in zip(weights, masks, strict=True)]
            yield [a + b for a, b in zip(product(first), product(second), strict=True)]

    def combined(batched: Gradients) -> list[Tensor]:
        return [
            torch.zeros_like(leaf) if rows is None else torch.tensordot(_joined(weights, rows), rows.detach(), 1)
            for rows, leaf in zip(batched, x, strict=True)
        ]

    def combined_again() -> list[Tensor]:
        return combined(gradients(flat, x, [FACTOR * basis for basis in bases], retain_graph=True, batched=True))

    again = combined_again, lambda: singly(FACTOR)
    # A combination sums many rows, each with its own rounding.
    if disagreement(combined(batched), singly(), precision=coarsest([*flat, *x]), again=again, apart=apart) > 10:
        raise RuntimeError(
            "The rows of a batched backward differ from a single backward: PyTorch cannot batch this function, and"
            " does not say so. Call with vectorize=False."
        )


def _joined(weights: Sequence[Tensor], rows: Tensor) -> Tensor:
    return torch.cat([weight.to(rows.device, rows.dtype) for weight in weights])


def by_columns(function: Callable[[tuple[Tensor, ...]], Sequence[Tensor]], x: Sequence[Tensor]) -> Blocks:
    """One forward-mode product, batched over the standard basis of all inputs together.

    The dtype of each block is that of the output. torch.func serves here: plain dual numbers cannot be batched.
    """
    for leaf in x:
        _refuse_dtensor(leaf)
        if leaf.dtype.is_complex:
            raise RuntimeError(
                f"A matrix of derivatives in forward mode needs real inputs but one has dtype {leaf.dtype}: one column"
                " cannot hold the derivatives by both parts. Use the reverse mode."
            )
    numels = [leaf.nelement() for leaf in x]
    if sum(numels) == 0:
        return [[output.new_zeros(output.shape + leaf.shape) for leaf in x] for output in function(tuple(x))]
    primals = tuple(x) if inside_transform() else tuple([leaf.detach() for leaf in x])
    shapes: list[torch.Size] = []

    def push(*slabs: Tensor) -> tuple[Tensor, ...]:
        tangents = tuple([slab.reshape(leaf.shape) for slab, leaf in zip(slabs, x, strict=True)])
        outputs, products = jvp(lambda *leaves: tuple(function(leaves)), primals, tangents)
        for output in outputs:
            _require_real_and_whole(output)
        shapes[:] = [output.shape for output in outputs]
        return tuple(products)

    # One evaluation is one draw: every column sees the same random numbers.
    try:
        batched = torch.func.vmap(push, randomness="same")(*_standard_basis(x, numels))
    except NotImplementedError as error:
        missing = MissingDerivative.of_error(error)
        if missing is None or isinstance(error, NoDerivativeError | MissingDerivative):
            raise
        raise missing from error
    return [
        [
            column.movedim(0, -1).reshape(shape + leaf.shape)
            for column, leaf in zip(output.split_with_sizes(numels), x, strict=True)
        ]
        for output, shape in zip(batched, shapes, strict=True)
    ]


def _standard_basis(tensors: Sequence[Tensor], numels: Sequence[int]) -> list[Tensor]:
    """The identity of the joint space, cut into one slab of columns for each tensor."""
    total, start, slabs = sum(numels), 0, []
    for tensor, numel in zip(tensors, numels, strict=True):
        slab = tensor.new_zeros(total, numel)
        slab.diagonal(-start).fill_(1)
        slabs.append(slab)
        start += numel
    return slabs


class _Rows:
    """The rows of one block, written into it as they come: stacked at the end they would all be there twice."""

    def __init__(self, output: Tensor, leaf: Tensor) -> None:
        self._output, self._leaf = output, leaf
        self._matrix: Tensor | None = None
        self._written = 0
        # Those that are stacked all the same: with a graph, of a subclass, or sparse; and then all of them.
        self._stacked: list[Tensor] = []

    def append(self, row: Tensor) -> None:
        """Take the next row."""
        if self._stacked or row.requires_grad or type(row) is not Tensor or row.layout != torch.strided:
            if self._matrix is not None:
                self._stacked.extend(self._matrix[: self._written])
                self._matrix = None
            self._stacked.append(row)
            return
        if self._matrix is None:
            self._matrix = row.new_empty((self._output.nelement(), *self._leaf.shape))
        self._matrix[self._written] = row
        self._written += 1

    def block(self) -> Tensor:
        """All rows, of shape ``output.shape + input.shape``."""
        shape = self._output.shape + self._leaf.shape
        if self._matrix is not None:
            return self._matrix.reshape(shape)
        return torch.stack(self._stacked).reshape(shape) if self._stacked else self._leaf.new_zeros(shape)


def _require_row(entry: Tensor | None, i: int, j: int, create_graph: bool) -> None:
    if entry is None:
        raise RuntimeError(
            f"Output {i} of the user-provided function is independent of input {j}. This is not allowed in strict mode."
        )
    if create_graph and not entry.requires_grad:
        raise RuntimeError(
            f"The jacobian of the user-provided function is independent of input {i}. This is not allowed in strict"
            " mode when create_graph=True."
        )


def _require_real_and_whole(output: Tensor) -> None:
    if output.dtype.is_complex:
        raise RuntimeError(
            f"A matrix of derivatives needs real outputs but the function returns {output.dtype}. Return"
            " torch.view_as_real of them."
        )
    _refuse_dtensor(output)


def _refuse_dtensor(tensor: Tensor) -> None:
    # Unit vectors are written element by element, which a rank cannot do to what others hold.
    if is_dtensor(tensor):
        raise NotImplementedError(
            "A matrix of derivatives needs plain tensors but its rows or columns belong to a DTensor. Multiply vectors"
            " instead, with hesse.vhp or hesse.functional.vjp."
        )
