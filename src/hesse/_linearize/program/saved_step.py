"""Compiled steps of recurrences on the disk, beside the programs that call them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

from hesse._base import saved_files
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
    # A damaged file, or a kernel that is not there.
    with contextlib.suppress(OSError, ImportError, AttributeError, ValueError, TypeError):
        if (content := saved_files.read(name)) is not None:
            digest, code, externs, kernels = json.loads(content)
            if digest == digest_of_bytes(json.dumps([code, externs, kernels]).encode()):
                return Wrapper(code, externs, [Kernel(*kernel) for kernel in kernels]).loaded()
    run = compile()
    wrapper = Wrapper.of(without_wrapper(run))
    if wrapper is not None:
        saved_files.write(name, json.dumps([digest_of_bytes(json.dumps(list(wrapper)).encode()), *wrapper]).encode())
    return run
