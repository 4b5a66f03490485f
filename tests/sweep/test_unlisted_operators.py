"""Operators of derivatives.yaml that PyTorch's database does not reach: products through them, or why not."""

from __future__ import annotations

import pytest

import hesse

from .eager import distance_to_finite_differences
from .test_operator_sweep import AGREEMENT, answer
from .unlisted import LATER, REFUSED, SAMPLES, formulas, reason, unlisted

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}:UserWarning")
    for message in (r"Sparse .* support is in beta", r"Sparse invariant checks are implicitly disabled", "A window was")
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("samples", "known"), [(1, LATER), pytest.param(8, set(), marks=pytest.mark.exhaustive)])
def test_each_has_a_sample_or_a_reason(samples: int, known: set[str]) -> None:
    """A release with a new formula fails here until somebody has tried it."""
    named = {*SAMPLES, *REFUSED, *known}
    assert not [name for name in sorted(unlisted(samples) - named) if reason(name) is None]


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.one_in(4)
def test_products_agree_with_differences_of_the_gradient(name: str) -> None:
    if name not in formulas():
        pytest.skip("this release of PyTorch has no such operator")
    case = SAMPLES[name]
    vector = case.vector()
    for product in (hesse.vhp, hesse.hvp):
        found = product(case.func, case.inputs, vector)[1]
        assert distance_to_finite_differences(case, vector, found, AGREEMENT) <= AGREEMENT
    with hesse.Hessian(case.func, case.inputs) as H:
        assert distance_to_finite_differences(case, vector, H @ vector, AGREEMENT) <= AGREEMENT


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_derivative_is_refused_or_right(name: str) -> None:
    case = REFUSED[name]
    vector = case.vector()
    found = answer(lambda case: hesse.vhp(case.func, case.inputs, vector)[1], case)
    if isinstance(found, Exception):
        assert isinstance(found, NotImplementedError)
        assert name.rstrip("_").partition(".")[0] in str(found)
    else:  # this release has a derivative
        assert distance_to_finite_differences(case, vector, found, AGREEMENT) <= AGREEMENT
