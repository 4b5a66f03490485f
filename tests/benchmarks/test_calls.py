"""How many calls one product makes: counts, so that what is added to every product is noticed."""

from __future__ import annotations

import torch

import hesse
from benchmarks import calls


def test_a_product_at_a_kept_point_makes_few_calls() -> None:
    found = {}
    for name, make in calls.COUNTED.items():
        call = make()
        call()
        found[name] = calls.count(call)
    hessian = found["Hessian by 4 leaves"]
    assert hessian.calls <= 30
    assert hessian.files <= 7
    assert 1 <= hessian.frames <= 9
    assert found["Hessian by 5 leaves"].calls <= hessian.calls + 2
    assert found["LossHessian over 2 batches"].calls <= 50
    assert found["GaussNewton over 2 batches"].calls <= 90


def test_calls_are_counted_in_their_files() -> None:
    one = hesse.Identity(hesse.as_operator(torch.eye(3)))
    v = torch.ones(3)
    one @ v
    assert calls.count(lambda: None) == (0, 0, 0)
    assert calls.count(lambda: one @ v).files >= 2
