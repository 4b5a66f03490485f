"""The sparse matrix of an operator: entries read from a few products, and a comparison by random ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hesse._autograd.agreement import FACTOR
from hesse._operators.linear_map import LinearMap
from hesse._sparse.given import given_pattern
from hesse._sparse.plan import GROUP, SparsePlan, plan
from hesse._sparse.verification import Difference, difference

# So many vectors are multiplied at a time where there are as many; an operator decides about batches by that number.
_WIDTH = 16


def planned(A: Any, pattern: Any, name: str = "to_sparse") -> SparsePlan:
    """The plan of a matrix with the pattern, which the operator keeps; a pattern of None is the one that it has."""
    earlier: SparsePlan | None = A._sparse_plan
    if earlier is None or (pattern is not None and pattern is not earlier.given):
        A._sparse_plan = earlier = _plan(A, pattern, name)
    return earlier


def to_sparse(A: Any, pattern: Any, name: str = "to_sparse") -> Tensor:
    """The matrix in compressed rows; see ``Operator.to_sparse``. The operator keeps the plan.

    ``name`` is what errors call the entry that the pattern was given to.
    """
    A._require_whole(f"{name}()")
    if A.differentiable and A.domain is not None:
        raise ValueError(
            f"to_sparse() of this {type(A).__name__} would cut off the derivatives of its products. Make the operator"
            " without create_graph=True."
        )
    earlier = A._sparse_plan
    plan = planned(A, pattern, name)
    matrix, wrong = _compared(A, plan)
    if wrong is not None and plan is earlier and plan.given is None:
        # What the pattern followed has moved with the point, as indices of neighbors do.
        plan = A._sparse_plan = _plan(A, None, name)
        matrix, wrong = _compared(A, plan)
    if wrong is not None:
        whose = "found for" if plan.given is None else "given to"
        raise ValueError(
            f"The pattern {whose} {name}() lacks an entry in row {wrong.row}: the product with a random vector is"
            f" {wrong.expected:.9g} there and {wrong.found:.9g} by the sparse matrix. Give a pattern= that holds every"
            " entry which is not zero here."
        )
    return matrix


def _plan(A: LinearMap, pattern: Any, name: str) -> SparsePlan:
    given = A._find_pattern() if pattern is None else pattern
    if given is None:
        raise TypeError(
            f"{name}() finds no pattern of a {type(A).__name__}. Give pattern=, the places of its entries, to its"
            " to_sparse()."
        )
    places = given_pattern(given, A.shape, symmetric=A.symmetric, name=name)
    return plan(places, pattern, symmetric=A.symmetric, dtype=A.dtype, device=A.device, room=A._room())


def _compared(A: LinearMap, plan: SparsePlan) -> tuple[Tensor, Difference | None]:
    """The matrix, and where it differs from the operator."""
    A.expect(plan.num_products)
    matrix = _read(A, plan)
    wrong = difference(
        A._matvec,
        lambda: _read(A, plan, FACTOR),
        matrix,
        plan.vectors,
        A._precision(),
    )
    return matrix, wrong


def _read(A: LinearMap, plan: SparsePlan, factor: float = 1.0) -> Tensor:
    """The matrix from products with the seeds times ``factor``, as many at a time as stay within the memory."""
    product = A.rmatmat if plan.transposed else A.matmat
    values = torch.empty(len(plan.entries), dtype=A.dtype, device=A.device)
    room, each = A._room(), max(1, sum(A.shape) * A.dtype.itemsize)
    width = _WIDTH if plan.num_colors >= _WIDTH and (room is None or 4 * _WIDTH * each <= room) else 1
    for start in range(0, plan.num_colors, max(width, GROUP)):
        stop = min(start + max(width, GROUP), plan.num_colors)
        products: list[Tensor] = []
        for first in range(start, stop, width):
            seeds = plan.seeds(first, min(first + width, stop), A.dtype)
            products += product((factor * seeds if factor != 1 else seeds).mT).mT
        plan.read(products, start, values)
    return plan.matrix(values)
