"""Operators on programs that are captured, made functional and parted, but run without a compiler, which is quick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import hesse
from hesse._linearize.program import backends
from hesse._linearize.program.backends import EAGER, Backend


def hessian(
    func: Callable[..., Any], inputs: Any, *, backend: Backend = EAGER, engine: str = "compiled", **options: Any
) -> hesse.Hessian:
    """A Hessian by a captured program."""
    with mock.patch.object(backends, "INDUCTOR", backend):
        return hesse.Hessian(func, inputs, engine=engine, **options)


def jacobian(func: Callable[..., Any], inputs: Any, **options: Any) -> hesse.Jacobian:
    """A Jacobian by a captured program."""
    with mock.patch.object(backends, "INDUCTOR", EAGER):
        return hesse.Jacobian(func, inputs, engine="compiled", **options)
