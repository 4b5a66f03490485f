"""Operators on programs that are captured, made functional and parted, but run without a compiler, which is quick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import hesse
from hesse._linearize.program import inductor
from hesse._linearize.program.backends import Backend
from hesse._linearize.program.inductor import EAGER


def hessian(
    func: Callable[..., Any], inputs: Any, *, backend: Backend = EAGER, engine: str = "compiled", **options: Any
) -> hesse.Hessian:
    """A Hessian by a captured program."""
    with mock.patch.object(inductor, "INDUCTOR", backend):
        return hesse.Hessian(func, inputs, engine=engine, **options)


def jacobian(func: Callable[..., Any], inputs: Any, **options: Any) -> hesse.Jacobian:
    """A Jacobian by a captured program."""
    with mock.patch.object(inductor, "INDUCTOR", EAGER):
        return hesse.Jacobian(func, inputs, engine="compiled", **options)
