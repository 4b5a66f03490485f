"""A product by a program through each operator, beside PyTorch's own double backward.

    python -m tests.sweep.compiled

compiles every operator of the database with Inductor (hours on two cores) and writes what came out beside this file.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hesse
from hesse._linearize.program.backends import INDUCTOR, Backend

from ..linearize import programs
from .eager import double_backward, largest
from .exceptions import RULED, WRONG_IN_PYTORCH
from .sweep import Case, cases_of, operators

RESULTS = Path(__file__).with_name("compiled.json")


def verdict(name: str, case: Case, backend: Backend = INDUCTOR) -> str:
    """ "right", or what is wrong, or the refusal."""
    vector = case.vector()
    if name in RULED or name in WRONG_IN_PYTORCH:
        # Where PyTorch has no second derivative, or a wrong one, hesse has a rule, which has tests of its own.
        expected: Any = hesse.vhp(case.func, case.inputs, vector)[1]
    else:
        expected = double_backward(case, vector)
    torch.default_generator.manual_seed(2)
    try:
        H = programs.hessian(case.func, case.inputs, backend=backend)
    except hesse.CaptureError as error:
        return f"refused: {error}"
    product = H @ vector
    return "right" if _agree(product, expected) else f"wrong: {product} but {expected}"


def _agree(product: Any, expected: Any) -> bool:
    size = max(largest([entry.nan_to_num(0, 0, 0) for entry in expected]), 1e-6)
    return all(_close(a, b, size) for a, b in zip(product, expected, strict=True))


def _close(a: Tensor, b: Tensor, size: float) -> bool:
    # Inside, some samples round to half precision; the program may round elsewhere.
    return a.dtype == b.dtype and torch.allclose(a, b, rtol=1e-7, atol=1e-7 * size, equal_nan=True)


def main() -> int:
    results = {}
    began = time.perf_counter()
    for name, op in operators().items():
        results[name] = verdict(name, next(cases_of(op)))
        print(f"{time.perf_counter() - began:7.0f} s  {name}: {results[name][:100]}", flush=True)
    counts = Counter(result.split(":")[0] for result in results.values())
    RESULTS.write_text(
        json.dumps(
            {
                "torch": torch.__version__,
                "counts": counts,
                "not right": {name: result for name, result in results.items() if result != "right"},
            },
            indent=1,
        )
        + "\n"
    )
    return 0 if set(counts) <= {"right", "refused"} else 1


if __name__ == "__main__":
    sys.exit(main())
