"""Inductor, PyTorch's compiler of graphs. This module loads it, so import it only where a program is made."""

from __future__ import annotations

import contextlib
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode

from hesse._base.errors import first_line, warn_caller
from hesse._linearize.program.explained import refused
from hesse._linearize.program.graph import Graph, mode_of, stand_ins_of

_IS_FIRST = "torch._inductor.config" not in sys.modules

with warnings.catch_warnings():
    # Importing the compiler runs deprecated functions of PyTorch.
    warnings.simplefilter("ignore", DeprecationWarning)
    # Private: Inductor has no public entry for a graph that is functional and decomposed already, and torch.compile
    # would trace, differentiate and wrap it again.
    import torch._inductor.config as inductor_config
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.exc import InvalidCxxCompiler
    from torch._inductor.virtualized import V

    from hesse._linearize.program.kernels import together

# Inductor copies the expression of a value into each of its users until it has this many operations. At Inductor's
# own bound of 50, ten steps of x + sin(x) compile in three minutes. At 16, 150 steps compile in half a minute, and
# Rosenbrock's replay is a tenth slower.
_MOST_OPERATIONS = 16


def digest_of_options() -> str | None:
    """A digest of Inductor's options; None where it gives none."""
    digest = getattr(inductor_config, "get_hash", None)
    return None if digest is None else str(digest().hex())


# Where nobody can have set one before they were loaded here.
AS_THEY_COME = digest_of_options() if _IS_FIRST else None


def decompositions() -> dict[Any, Any]:
    """Inductor's own, except for random operators, which would draw other numbers than the tape."""
    return {
        operator: rule
        for operator, rule in select_decomp_table().items()
        if torch.Tag.nondeterministic_seeded not in getattr(operator, "tags", ())
    }


def compile(graph: Graph, **options: Any) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    """Compile a half, with these options of Inductor's.

    Raises:
        CaptureError: Inductor fails.
    """
    mode = mode_of(graph)
    context = tracing(TracingContext(mode))
    # Inductor would lay out images for convolutions by channels, and once more as the convolutions' backwards take
    # them. Those of oneDNN lay them out for themselves.
    if all(stand_in.is_cpu for stand_in in stand_ins_of(graph)):
        options = {"layout_optimization": False} | options
    with refused(_reason), together() as damaged, settings(mode), inductor_config.patch(**options), context:
        compiled: Callable[[list[Tensor]], Sequence[Tensor]] = compile_fx_inner(graph, stand_ins_of(graph))
    for file in damaged:
        warn_caller(f"The compiled kernel {file} was damaged, so it was compiled again.")
    return compiled


@contextlib.contextmanager
def settings(mode: FakeTensorMode) -> Iterator[None]:
    """Inductor's settings while it works on a graph of ``mode``'s stand-ins."""
    with (
        warnings.catch_warnings(),
        V.set_fake_mode(mode),
        # Random numbers as eager PyTorch draws them.
        inductor_config.patch(fallback_random=True, realize_opcount_threshold=_MOST_OPERATIONS),
        inductor_config.patch(_without_trials()),
    ):
        # Inductor warns about its own use of PyTorch.
        warnings.simplefilter("ignore")
        yield


def _without_trials() -> dict[str, Any]:
    """Vector instructions that an x86 processor has are taken, unless the user has chosen.

    Inductor compiles a file to try each set, which takes seven processor seconds. Every compiler of C++20 has them, and
    kernels include the header that is tried.
    """
    is_open = inductor_config.cpp.vec_isa_ok is None and platform.machine() in ("x86_64", "AMD64")
    return {"cpp.vec_isa_ok": True} if is_open else {}


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InvalidCxxCompiler):
            return "a C++ compiler is needed and none was found; install one or name it in the variable CXX"
        cause = getattr(cause, "inner_exception", None) or cause.__cause__
    return f"Inductor cannot compile it: {first_line(error)}"
