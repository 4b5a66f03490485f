"""The sparse matrix of an operator: entries read from a few products, and a comparison by random ones."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._autograd.agreement import FACTOR
from hesse._base import pages
from hesse._operators.linear_map import LinearMap
from hesse._sparse.given import given_pattern
from hesse._sparse.plan import SparsePlan, plan
from hesse._sparse.verification import ALLOWED, LARGEST, Difference, difference

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
    precision = A._precision()
    expected = [A._matvec(vector) for vector in plan.vectors]
    read = functools.partial(_read, A, plan, expected, LARGEST * ALLOWED * torch.finfo(precision).eps)
    matrix, agrees = read()
    if agrees:
        return matrix, None
    return matrix, difference(A._matvec, lambda: read(FACTOR)[0], matrix, plan.vectors, expected, precision)


def _read(
    A: LinearMap, plan: SparsePlan, expected: Sequence[Tensor], allowed: float, factor: float = 1.0
) -> tuple[Tensor, bool]:
    """The matrix from products with the seeds times ``factor``, and what ``SparsePlan.read`` says of it."""
    values = pages.empty(len(plan.sources), A.dtype, A.device)
    agrees = False
    held, width = _held(A, plan)
    products = pages.empty(held * plan.length, A.dtype, A.device)
    for start in range(0, plan.num_colors, max(held, 1)):
        stop = min(start + held, plan.num_colors)
        for first in range(start, stop, width):
            last = min(first + width, stop)
            seeds = plan.seeds(first, last, A.dtype)
            multiply = A.rmatmat if plan.transposed else A.matmat
            found = multiply((factor * seeds if factor != 1 else seeds).mT).mT
            # Flat: PyTorch takes a lone row for a transposed matrix, and copies it ten times as slowly.
            products[(first - start) * plan.length : (last - start) * plan.length] = found.detach().reshape(-1)
        agrees = plan.read(products[: (stop - start) * plan.length], start, values, expected, allowed)
    return plan.matrix(values), agrees


def _held(A: LinearMap, plan: SparsePlan) -> tuple[int, int]:
    """How many products are read together, and how many are made at once, within the memory."""
    # So that reading takes no longer than the products, nor much more memory than the entries.
    held = min(plan.num_colors, max(_WIDTH, 2 * len(plan.sources) // max(plan.length, 1)))
    room, each = A._room(), max(1, sum(A.shape) * A.dtype.itemsize)
    if room is not None:
        held = min(held, max(1, room // (4 * each)))
    if held < _WIDTH:
        return held, 1
    return (held if held == plan.num_colors else held // _WIDTH * _WIDTH), _WIDTH
