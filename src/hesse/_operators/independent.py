"""Many independent problems at once: a function that returns one value for each, whose Hessian is block-diagonal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._autograd.agreement import FACTOR, coarsest, disagreement
from hesse._autograd.arguments import Point as At
from hesse._autograd.arguments import evaluate
from hesse._autograd.gradients import followed_gradients, gradients, zeros_where_none
from hesse._base import trees
from hesse._base.fixed_draws import fixed_generator, random_like
from hesse._base.space import Space
from hesse._linearize.unit_vectors import UnitVectors
from hesse._operators.materialize import empty
from hesse._operators.point import Point


def evaluate_each(name: str, point: At, x: Sequence[Tensor], has_aux: bool) -> tuple[Tensor, Any]:
    """The values of all problems, (B,), where each input has B as its first dimension; and the auxiliary output."""
    outputs, spec, aux = evaluate(name, point, x, False, has_aux)
    if spec.paths != ((),) or outputs[0].dim() != 1 or outputs[0].dtype.is_complex:
        shapes = ", ".join(f"{tuple(output.shape)} of {output.dtype}" for output in outputs)
        raise RuntimeError(
            f"The function given to {name} with batch_dim=0 should return one real Tensor of shape (B,) but returns"
            f" {shapes or 'nothing'}."
        )
    (output,) = outputs
    for path, leaf in zip(point.spec.paths, x, strict=True):
        if leaf.shape[:1] != output.shape:
            raise RuntimeError(
                f"The function given to {name} with batch_dim=0 returns {output.shape[0]} values, but"
                f" {trees.path_name(path) or 'the input'} has shape {tuple(leaf.shape)}: each input should have the"
                " problems as its first dimension. What they share should be captured, or left out by argnums=."
            )
    return output, aux


def require_independent(name: str, values: Tensor, gradient: Sequence[Tensor], x: Sequence[Tensor]) -> None:
    r"""Raise where the value of one problem depends on the inputs of another.

    With random weights :math:`w_i`, gradient and a product of :math:`\sum_i w_i f_i` must be those of
    :math:`\sum_i f_i`, each problem's part times its weight. Both: a first derivative may vanish at the point.
    """
    generator = fixed_generator(values.device)
    weights, vectors = random_like(values, generator), [random_like(leaf, generator) for leaf in x]

    def times_weights(leaves: Sequence[Tensor]) -> list[Tensor]:
        return [leaf * weights.to(leaf.device).reshape(-1, *[1] * (leaf.dim() - 1)) for leaf in leaves]

    def weighted(factor: float = 1.0) -> Sequence[Tensor]:
        return zeros_where_none(followed_gradients((values,), x, (factor * weights,)), x)

    def product(of: Sequence[Tensor], factor: float = 1.0) -> Sequence[Tensor]:
        return zeros_where_none(gradients(of, x, [factor * vector for vector in vectors], retain_graph=True), x)

    def whole(factor: float = 1.0) -> Sequence[Tensor]:
        ones = torch.full_like(values, factor)
        return times_weights(zeros_where_none(gradients((values,), x, (ones,), retain_graph=True), x))

    of_weighted = weighted()
    for found, expected, again in (
        (of_weighted, times_weights(gradient), (lambda: weighted(FACTOR), lambda: whole(FACTOR))),
        (
            product(of_weighted),
            times_weights(product(gradient)),
            (lambda: product(of_weighted, FACTOR), lambda: times_weights(product(gradient, FACTOR))),
        ),
    ):
        pairs = [leaf.detach() for leaf in found], [leaf.detach() for leaf in expected]
        if disagreement(*pairs, precision=coarsest([*x, values]), again=again) > 1:
            raise RuntimeError(
                f"The function given to {name} with batch_dim=0 couples its problems: a value depends on the inputs of"
                " another problem, as batch statistics or a sum over the first dimension make it. Make them independent"
                " of each other, or leave batch_dim out and return the sum."
            )


def dense_blocks(point: Point, space: Space, dtype: torch.dtype, left: int | None) -> Tensor:
    """The blocks (B, n, n) of a block-diagonal map: by n products of the sum, each with one unit vector for all."""
    number = space.leaves[0].shape[0]
    size = space.size // number if number else 0
    if not size:
        return torch.zeros(number, 0, 0, dtype=dtype, device=space.device)
    blocks = empty((number, size, size), dtype, space.device, left)
    vectors = UnitVectors(size, space.dtype, space.device)
    point.multiply_rows(vectors, point.whole, _Spread(space), space, into=_Blocks(blocks, space), left=left)
    return blocks


class _Spread:
    """Vectors of one problem as leaves of all problems: the same for each."""

    def __init__(self, space: Space) -> None:
        self._one = Space([leaf[0] for leaf in space.leaves], space.spec, space.name)
        self._number = space.leaves[0].shape[0]

    def split(self, rows: Tensor) -> list[Tensor]:
        """Rows (…, n) of one problem, as leaves (…, B, *shape)."""
        batch = rows.dim() - 1
        return [
            leaf.unsqueeze(batch).expand(*leaf.shape[:batch], self._number, *leaf.shape[batch:]).contiguous()
            for leaf in self._one.split(rows)
        ]


class _Blocks:
    """Where the rows of all blocks are written: products of all problems, flat."""

    def __init__(self, blocks: Tensor, space: Space) -> None:
        self.nbytes = blocks.nbytes
        self._blocks, self._space = blocks, space

    def add(self, start: int, products: Tensor, weight: float, *, first: bool) -> None:
        """The products of the rows from ``start`` on; a plain function has one term, of weight one."""
        number = self._blocks.shape[0]
        leaves = [
            leaf.reshape(len(products), number, -1) for leaf in products.split_with_sizes(self._space.lengths, dim=-1)
        ]
        self._blocks[:, start : start + len(products)] = torch.cat(leaves, dim=-1).transpose(0, 1)

    def divided(self, divisor: float) -> Tensor:
        """All blocks."""
        return self._blocks
