"""Programs are captured, made functional and parted, but run without a compiler, which is quick."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """``engine="compiled"`` runs its graphs operator by operator."""
    # Both add a filter of warnings where they are first imported.
    for name in ("scipy.special", "scipy.sparse.linalg", "sympy"):
        importlib.import_module(name)

    from hesse._linearize.program import backends

    monkeypatch.setattr(backends, "INDUCTOR", backends.EAGER)
