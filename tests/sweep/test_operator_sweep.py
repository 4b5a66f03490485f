"""A product through every operator of PyTorch's database that has a float64 gradient on the CPU.

Judged by PyTorch's own double backward wherever that answers, and by finite differences wherever they can.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import hesse

from .eager import Product, distance_to_finite_differences, double_backward
from .exceptions import NOT_JUDGED, REFUSED, REFUSED_WITHOUT_A_NAME, RULED, WRONG_IN_PYTORCH
from .sweep import Case, cases_of, operators

OPERATORS = operators()
ANSWERED_BY_BOTH = sorted(OPERATORS.keys() - REFUSED.keys() - REFUSED_WITHOUT_A_NAME.keys() - RULED.keys())
JUDGED = sorted((set(ANSWERED_BY_BOTH) | RULED.keys()) - NOT_JUDGED.keys() - WRONG_IN_PYTORCH.keys())

AGREEMENT = 1e-6
"""With finite differences, relative to the size of the gradient and the product."""

# What PyTorch says about its own operators and samples when the database calls them.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}:UserWarning")
    for message in (
        r"torch\.(cholesky|lu|lu_solve|qr|triangular_solve) is deprecated",
        r"`nn\.functional\.upsample_(bilinear|nearest)` is deprecated",
        r"Using torch\.cross without specifying the dim arg is deprecated",
        r"A window was not provided",
        r"stft with return_complex=False is deprecated",
        r"dropout2d. Received a 3D input",
        r"index_reduce\(\) is in beta",
        r"ComplexHalf support is experimental",
        r"Sparse CSR tensor support is in beta",
        r"Sparse invariant checks are implicitly disabled",
    )
]


@functools.cache
def first_case(name: str) -> Case:
    return next(cases_of(OPERATORS[name]))


def _answer(product: Any, case: Case) -> Product | Exception:
    """The product, or what it raised: some errors are answers that have to agree too."""
    try:
        result: Product = product(case)
    except Exception as error:
        return error
    return result


def compare(case: Case) -> str:
    """How our product stands to PyTorch's: "right", or what is wrong, or how it is refused.

    Where only ours answers, finite differences judge it.
    """
    vector = case.vector()
    theirs = _answer(lambda case: double_backward(case, vector), case)
    ours = _answer(lambda case: hesse.vhp(case.func, case.inputs, vector)[1], case)
    if isinstance(ours, Exception) and isinstance(theirs, Exception):
        # Ours may say more: who was asked, and by which line of the user's code.
        cause = ours.__cause__ if isinstance(ours, hesse.NoDerivativeError) else ours
        same = type(cause) is type(theirs) and str(cause) == str(theirs)
        return f"refused by both: {ours}" if same else f"refused differently: {ours!r} but {theirs!r}"
    if isinstance(theirs, Exception) and not isinstance(ours, Exception):
        distance = distance_to_finite_differences(case, vector, ours, AGREEMENT)
        return (
            f"right here: {theirs}" if distance <= AGREEMENT else f"wrong by {distance}, refused by PyTorch: {theirs}"
        )
    if isinstance(ours, Exception):
        return f"refused here alone: {ours!r}"
    return "right" if all(_equal(a, b) for a, b in zip(ours, theirs, strict=True)) else f"wrong: {ours} but {theirs}"


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.layout is not torch.strided:
        a, b = a.to_dense(), b.to_dense()
    return a.dtype == b.dtype and torch.allclose(a, b, rtol=1e-12, atol=1e-300, equal_nan=True)


@functools.cache
def verdict(name: str) -> str:
    """The comparison at an operator's first sample, made once a process."""
    return compare(first_case(name))


@pytest.mark.parametrize("name", ANSWERED_BY_BOTH)
def test_vhp_equals_pytorchs_double_backward(name: str) -> None:
    assert verdict(name) == "right"


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refusal_names_the_operator_without_a_derivative(name: str) -> None:
    assert verdict(name).startswith("refused by both")
    assert REFUSED[name] in verdict(name)
    assert "not implemented" in verdict(name)


@pytest.mark.parametrize("name", sorted(RULED))
def test_an_operator_with_a_rule_is_right_where_pytorch_refuses(name: str) -> None:
    assert verdict(name).startswith("right here")
    assert RULED[name] in verdict(name)


@pytest.mark.parametrize("name", sorted(REFUSED_WITHOUT_A_NAME))
def test_a_refusal_is_pytorchs_own_where_it_names_no_operator(name: str) -> None:
    assert verdict(name).startswith("refused by both")
    assert REFUSED_WITHOUT_A_NAME[name] in verdict(name)


@pytest.mark.parametrize("name", JUDGED)
def test_vhp_agrees_with_finite_differences(name: str) -> None:
    case = first_case(name)
    _, product = hesse.vhp(case.func, case.inputs, case.vector())
    assert distance_to_finite_differences(case, case.vector(), product, AGREEMENT) <= AGREEMENT


@pytest.mark.parametrize("name", sorted(WRONG_IN_PYTORCH))
def test_what_is_wrong_in_pytorch_is_still_wrong_there(name: str) -> None:
    # A release that mends one of these moves it among those that are judged.
    case = first_case(name)
    product = double_backward(case, case.vector())
    assert distance_to_finite_differences(case, case.vector(), product, AGREEMENT) > 1e-2


def test_the_whole_database_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    counts = Counter(verdict(name).split(":")[0] for name in OPERATORS)
    named = sum(REFUSED[name] in verdict(name) for name in REFUSED)
    with capsys.disabled():
        print(
            f"\n{len(OPERATORS)} operators: {counts['right']} right, {counts['right here']} right by a rule where"
            f" PyTorch refuses, {named} refused by name,"
            f" {counts['refused by both'] - named} refused without a name;"
            f" {len(JUDGED)} judged by finite differences as well"
        )
    assert counts == {"right": 528, "right here": len(RULED), "refused by both": 12 - len(RULED)}
    assert (len(OPERATORS), named, len(JUDGED)) == (540, 10 - len(RULED), 515 + len(RULED))


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_further_samples_stand_as_pytorchs_double_backward(name: str) -> None:
    for case in itertools.islice(cases_of(OPERATORS[name]), 1, 4):
        assert compare(case).startswith(("right", "refused by both"))
