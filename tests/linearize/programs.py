"""Operators on programs that are captured, made functional and parted, but run without a compiler, which is quick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hesse
from hesse._linearize.compiled import Compiled
from hesse._linearize.program.backends import Backend
from hesse._linearize.program.inductor import EAGER


def hessian(
    func: Callable[..., Any], inputs: Any, *, verify: bool = True, backend: Backend = EAGER, **options: Any
) -> hesse.Hessian:
    """A Hessian by a captured program."""
    engine = Compiled(func, ("rmatvec",), verify=verify, backend=backend)
    return hesse.Hessian(func, inputs, engine=engine, **options)


def jacobian(func: Callable[..., Any], inputs: Any, **options: Any) -> hesse.Jacobian:
    """A Jacobian by a captured program."""
    engine = Compiled(func, ("rmatvec", "matvec"), backend=EAGER)
    return hesse.Jacobian(func, inputs, engine=engine, **options)
