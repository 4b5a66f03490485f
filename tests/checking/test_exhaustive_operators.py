"""PyTorch's database of operators: no derivative is called wrong but those that are."""

from __future__ import annotations

import pytest

import hesse
from hesse._checking import engines

from ..sweep.sweep import cases_of, operators

WRONG = {
    "nn_functional_cosine_embedding_loss": "labels count as differentiable inputs, and are compared with 1",
    "nn_functional_hinge_embedding_loss": "labels count as differentiable inputs, and are compared with 1",
    "normal": "PyTorch gives no derivative by mean and deviation",
    "normal_number_mean": "PyTorch gives no derivative by mean and deviation",
}


@pytest.mark.exhaustive
# Operators warn of deprecation, of sparse tensors and of much else that is no concern here.
@pytest.mark.filterwarnings("ignore")
def test_no_derivative_is_called_wrong_but_those_that_are(monkeypatch):
    monkeypatch.setattr(engines, "_MOST_NODES", 0)
    found = {}
    for name, operator in operators().items():
        case = next(cases_of(operator), None)
        if case is not None:
            report = hesse.check(case.func, case.inputs, rng=0)
            if {finding.kind for finding in report.findings} & {"wrong", "cut off"}:
                found[name] = report.findings[0].kind
    assert found == dict.fromkeys(WRONG, "wrong")
