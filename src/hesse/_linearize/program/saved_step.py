"""Compiled steps of recurrences on the disk, beside the programs that call them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

from hesse._base import saved_files
from hesse._base.errors import warn_caller
from hesse._linearize.clear_saved_programs import SUFFIX
from hesse._linearize.program.dependences import Unknown
from hesse._linearize.program.environment import digest_of_bytes, environment
from hesse._linearize.program.runs import Run, without_wrapper
from hesse._linearize.program.wrapper import Kernel, Wrapper


def saved_step(key: Any, compile: Callable[[], Run]) -> Run:
    """The compiled step that was saved under ``key``; else it is compiled, and saved.

    A program that calls it is compared with the tape where it is new, as always.
    """
    try:
        name = digest_of_bytes(repr((key, environment())).encode()) + SUFFIX
    except Unknown:
        return compile()
    if (content := saved_files.read(name)) is not None:
        try:
            digest, code, externs, kernels = json.loads(content)
            is_whole = digest == digest_of_bytes(json.dumps([code, externs, kernels]).encode())
        except (ValueError, TypeError):
            is_whole = False
        if is_whole:
            # Kernels may be gone.
            with contextlib.suppress(OSError, ImportError, AttributeError):
                return Wrapper(code, externs, [Kernel(*kernel) for kernel in kernels]).loaded()
        else:
            warn_caller(f"The saved step {name} is damaged, so it is compiled again.")
    run = compile()
    wrapper = Wrapper.of(without_wrapper(run))
    if wrapper is not None:
        saved_files.write(name, json.dumps([digest_of_bytes(json.dumps(list(wrapper)).encode()), *wrapper]).encode())
    return run
