"""What a check returns, and the screen that tells it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import hesse
from hesse._checking import engines

from . import broken


def test_numbers_are_those_of_the_function():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    report = hesse.check(lambda x: (x**3).sum(), x)
    assert report.ok
    assert report.findings == ()
    assert report.value == 9.0
    assert report.gradient_norm == pytest.approx((3**2 + 12**2) ** 0.5)
    assert report.variables == 2
    assert (report.dtype, report.device) == ("float64", "cpu")
    assert report.deterministic
    assert report.twice_differentiable
    assert not report.draws
    assert report.engines == ("tape", "compiled")
    assert report.bytes_kept == hesse.Hessian(lambda x: (x**3).sum(), x).explain().bytes_kept
    assert 0 < report.product_seconds < 1
    assert report.seconds(100) == pytest.approx(report.evaluation_seconds + 100 * report.product_seconds)
    assert report.asymmetry < 1e-12


def test_complex_entries_count_twice():
    assert hesse.check(lambda z: (z.abs() ** 4).sum(), torch.tensor([1 + 2j, 2 - 1j])).variables == 4


def test_a_result_and_its_findings_cannot_be_changed():
    report = hesse.check(broken.detach, broken.POINT)
    for frozen, field in ((report, "value"), (report.findings[0], "line")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frozen, field, 1)


def test_the_screen_tells_all_and_fits_a_terminal():
    lines = str(hesse.check(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0]), rng=0)).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    told = {line.split("  ")[0] for line in lines}
    assert told >= {
        *("variables", "value", "gradient norm", "deterministic", "twice differentiable", "gradient", "product"),
        *("rounding", "symmetry", "rules of hesse", "engines", "kept", "time", "time for products"),
    }
    assert lines[-1] == "All is well."


def test_the_screen_tells_place_sentence_and_remedy_of_a_finding():
    report = hesse.check(broken.inner_gradient, broken.POINT, rng=0)
    text = str(report)
    (finding,) = report.findings
    assert f"✗ cut off: {broken.__file__}:{finding.line}\n    (force,) = torch.autograd.grad(energy, x)" in text
    assert finding.sentence in " ".join(text.split())
    assert "Pass create_graph=True." in text
    assert text.endswith("1 found.")


def test_lines_where_values_decide_are_told():
    def func(x):
        if x.sum() > 0:
            return (x**3).sum()
        return (x**2).sum()

    report = hesse.check(func, torch.ones(2))
    line = func.__code__.co_firstlineno + 1
    assert report.ok
    assert report.data_dependent == (f"{__file__}:{line}",)
    assert report.engines == ("tape",)
    (note,) = report.notes
    assert note.kind == "not compiled"
    assert f"line {line}" in note.sentence
    assert f"depends on values     {__file__}:{line}" in str(report)


def test_the_compiled_engine_is_not_tried_on_a_large_graph(monkeypatch):
    monkeypatch.setattr(engines, "_MOST_NODES", 1)
    report = hesse.check(lambda x: (x**3).sum(), torch.ones(2))
    assert report.engines == ("tape",)
    (note,) = report.notes
    assert note.sentence.endswith("was not tried: the autograd graph has 3 nodes.")


def test_a_finding_reads_as_its_sentences():
    finding = hesse.Finding("zero", "The Hessian is zero.", "Use another.", file="a.py", line=3)
    assert str(finding) == "The Hessian is zero. Use another."
    assert finding.place == "a.py:3"
    assert hesse.Finding("zero", "The Hessian is zero.").place == ""


def test_what_could_not_be_found_out_is_none():
    report = hesse.check(broken.no_derivative, broken.POINT)
    assert report.twice_differentiable is False
    assert report.value is not None
    assert report.curvature is None
    assert report.product_seconds is None
    assert report.seconds(10) is None
