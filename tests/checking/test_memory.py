"""What is done without where memory is short."""

from __future__ import annotations

import torch

import hesse
from hesse._checking import comparing


def test_double_precision_is_done_without_where_it_would_not_fit(monkeypatch):
    monkeypatch.setattr(comparing, "available", lambda device: 10)
    report = hesse.check(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0]))
    assert report.ok
    assert report.curvature.precision is torch.float32
    assert report.rounding is None
