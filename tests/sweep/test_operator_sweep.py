"""A product through every operator of PyTorch's database that has a float64 gradient on the CPU.

Each is judged by PyTorch's own double backward wherever that answers and is right, and by an independent reference:
finite differences; the identity, where operators round; at kinks that there is no number.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import hesse
from tests.capabilities import differentiates_grid_sample_twice

from .eager import Product, distance_to_finite_differences, double_backward, largest
from .exceptions import KINKS, LESS_EXACT_IN_PYTORCH, LOW_PRECISION, NO_NUMBER_IN_PYTORCH, RULED, WRONG_IN_PYTORCH
from .own_samples import OWN_SAMPLES, REWRITTEN
from .sweep import Case, cases_of, operators, weighted_sum

# PyTorch 2.11 has no second derivative of grid_sample, and is refused by name: tests/scenarios says so.
OPERATORS = {
    name: operator
    for name, operator in operators().items()
    if "grid_sample" not in name or differentiates_grid_sample_twice()
}

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
        r"reduction. 'mean' divides the total loss",
        r"linear_cross_entropy.+options.+ignored",
        r"Sparse CSR tensor support is in beta",
        r"Sparse invariant checks are implicitly disabled",
    )
]


@functools.cache
def first_case(name: str) -> Case:
    return next(cases_of(OPERATORS[name]))


def answer(product: Any, case: Case) -> Product | Exception:
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
    theirs = answer(lambda case: double_backward(case, vector), case)
    ours = answer(lambda case: hesse.vhp(case.func, case.inputs, vector)[1], case)
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


def _is_refused(name: str) -> bool:
    """Whether this release of PyTorch refuses an operator's first sample."""
    with warnings.catch_warnings():
        # What filters of the tests leave out; they do not hold yet.
        warnings.simplefilter("ignore")
        return isinstance(answer(lambda case: double_backward(case, case.vector()), first_case(name)), Exception)


REFUSED = sorted(filter(_is_refused, RULED.keys() & OPERATORS.keys()))
WRONG = sorted(WRONG_IN_PYTORCH.keys() & OPERATORS.keys())
LESS_EXACT = sorted(LESS_EXACT_IN_PYTORCH.keys() & OPERATORS.keys())
RIGHT_IN_PYTORCH = sorted(OPERATORS.keys() - {*REFUSED, *WRONG, *LESS_EXACT})


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.layout is not torch.strided:
        a, b = a.to_dense(), b.to_dense()
    return a.dtype == b.dtype and torch.allclose(a, b, rtol=1e-12, atol=1e-300, equal_nan=True)


@functools.cache
def verdict(name: str) -> str:
    """The comparison at an operator's first sample, made once a process."""
    return compare(first_case(name))


@functools.cache
def judged(name: str) -> str:
    """How our product stands to a reference that does not know PyTorch's double backward."""
    case = reference = first_case(name)
    if name in OWN_SAMPLES:
        case = reference = OWN_SAMPLES[name](case)
    if name in REWRITTEN:
        case, reference = REWRITTEN[name](case)
    vector = case.vector()
    _, product = hesse.vhp(case.func, case.inputs, vector)
    if name in KINKS:
        return "no number" if all(bool(entry.isnan().all()) for entry in product) else f"a number at a kink: {product}"
    if name in LOW_PRECISION:
        # Rounding of the value moves it along the sine, by as much as all the weighted entries together.
        identity = Case(lambda x: torch.sin(weighted_sum(x * torch.ones((), dtype=_dtype(name)))), case.inputs)
        expected = double_backward(identity, vector)
        distance = largest([a - b for a, b in zip(product, expected, strict=True)]) / largest(expected)
        within = 64 * LOW_PRECISION[name]
    else:
        distance, within = distance_to_finite_differences(reference, vector, product, AGREEMENT), AGREEMENT
    return "right" if distance <= within else f"wrong by {distance}"


def _dtype(name: str) -> torch.dtype:
    return torch.complex128 if name in ("cfloat", "chalf") else torch.float64


@pytest.mark.parametrize("name", RIGHT_IN_PYTORCH)
@pytest.mark.one_in(5)
def test_vhp_equals_pytorchs_double_backward(name: str) -> None:
    assert verdict(name) == "right"


@pytest.mark.parametrize("name", REFUSED)
def test_an_operator_with_a_rule_is_right_where_pytorch_refuses(name: str) -> None:
    assert verdict(name).startswith("right here")
    assert RULED[name] in verdict(name)


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_vhp_agrees_with_an_independent_reference(name: str) -> None:
    assert judged(name) == ("no number" if name in KINKS else "right")


@pytest.mark.parametrize("name", sorted(OPERATORS))
@pytest.mark.one_in(5)
def test_a_product_of_a_kept_point_is_that_of_vhp(name: str) -> None:
    case = first_case(name)
    vector = case.vector()
    with hesse.Hessian(case.func, case.inputs) as H:
        kept = H @ vector
    _, product = hesse.vhp(case.func, case.inputs, vector)
    assert all(_equal(a, b) for a, b in zip(kept, product, strict=True))


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_in_pytorch_is_still_wrong_there(name: str) -> None:
    # A release that mends one of these moves it among those that are judged by its double backward too.
    case = first_case(name)
    product = double_backward(case, case.vector())
    assert distance_to_finite_differences(case, case.vector(), product, AGREEMENT) > 1e-2


def test_the_whole_database_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    counts = Counter(verdict(name).split(":")[0] for name in OPERATORS)
    references = Counter(judged(name) for name in OPERATORS)
    with capsys.disabled():
        print(
            f"\n{len(OPERATORS)} operators: {counts['right']} right as in PyTorch, {counts['right here']} by a rule"
            f" where PyTorch refuses, {len(WRONG)} where PyTorch is wrong; {references['right']} judged by"
            f" an independent reference, {references['no number']} at a kink"
        )
    kinks = len(KINKS.keys() & OPERATORS.keys())
    assert counts["right"] + counts["right here"] + len(WRONG) + len(LESS_EXACT) == len(OPERATORS) >= 500
    assert counts["right here"] == len(REFUSED)
    assert references == {"right": len(OPERATORS) - kinks, "no number": kinks}


@pytest.mark.parametrize("name", sorted({*RIGHT_IN_PYTORCH} - NO_NUMBER_IN_PYTORCH.keys()))
@pytest.mark.one_in(17)
def test_further_samples_stand_as_pytorchs_double_backward(name: str) -> None:
    for case in itertools.islice(cases_of(OPERATORS[name]), 1, 4):
        assert compare(case).startswith("right")


@pytest.mark.parametrize("name", sorted({*REFUSED, *WRONG, *LESS_EXACT, *NO_NUMBER_IN_PYTORCH} - REWRITTEN.keys()))
@pytest.mark.one_in(4)
def test_further_samples_of_what_pytorch_cannot_judge_agree_with_differences(name: str) -> None:
    for case in itertools.islice(cases_of(OPERATORS[name]), 1, 4):
        _, product = hesse.vhp(case.func, case.inputs, case.vector())
        assert distance_to_finite_differences(case, case.vector(), product, AGREEMENT) <= AGREEMENT
