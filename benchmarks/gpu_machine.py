"""The device that the checks of ``benchmarks/gpu.py`` run on, and their table."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Facts = dict[str, Any]
Check = Callable[["Machine"], Facts]
CHECKS: dict[str, tuple[float, Check]] = {}
"""By name: the seconds that must be left for a check, and the check."""


class Machine:
    """The device, and how large problems are."""

    def __init__(self, dry: bool) -> None:
        self.dry, self.device = dry, torch.device("cpu" if dry else "cuda")

    def wait(self) -> None:
        """Until the device has done all it was asked for."""
        if not self.dry:
            torch.cuda.synchronize()

    def milliseconds(self, call: Callable[[], object], repeats: int = 5) -> float:
        """Of one call, after one that is not counted."""
        call()
        self.wait()
        began = time.perf_counter()
        for _ in range(1 if self.dry else repeats):
            call()
        self.wait()
        return round((time.perf_counter() - began) / (1 if self.dry else repeats) * 1e3, 3)

    def peak(self, call: Callable[[], object]) -> int | None:
        """Bytes that a call takes beside what is there."""
        if self.dry:
            call()
            return None
        self.wait()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before

    @contextlib.contextmanager
    def attending_by(self, backend: str) -> Iterator[None]:
        """Attention by one kernel, which the CPU may not have."""
        with sdpa_kernel(SDPBackend.MATH if self.dry else getattr(SDPBackend, backend)):
            yield


def check(name: str, seconds: float = 5) -> Callable[[Check], Check]:
    """Register a check."""

    def register(function: Check) -> Check:
        CHECKS[name] = seconds, function
        return function

    return register


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, drawn on the CPU."""
    return torch.randn(*shape, generator=torch.Generator("cpu").manual_seed(seed))


def far(found: Tensor, expected: Tensor) -> float:
    """The distance of two vectors, relative to the second."""
    a, b = found.detach().cpu().double().reshape(-1), expected.detach().cpu().double().reshape(-1)
    return float((a - b).norm() / b.norm())


def of_parameters(model: nn.Module, call: Callable[[nn.Module], Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """A function of a model's parameters, and these."""

    def func(parameters: dict[str, Tensor]) -> Tensor:
        return call(lambda *given: torch.func.functional_call(model, parameters, given))  # type: ignore[arg-type]  # called as one

    return func, {name: parameter.detach() for name, parameter in model.named_parameters()}
