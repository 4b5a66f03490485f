"""Every entry point on a second device, with an accelerator as the default device, and without float64."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.device import pretended
from tests.device.entries import CPU, ENTRIES, Setting, flat

# Few products are enough to tell whether devices agree.
pytestmark = pytest.mark.filterwarnings("ignore::hesse.ConvergenceWarning")


@functools.cache
def _on_the_cpu(name: str) -> list[Tensor]:
    return flat(ENTRIES[name](Setting(CPU)))


# A build without CUDA has no kernels of sparse matrices under CUDA's keys.
NEEDS_SPARSE_KERNELS = {"sparse_hessian", "factorize", "to_scipy"}
DENSE = [name for name in ENTRIES if name.split()[0] not in NEEDS_SPARSE_KERNELS]


def _assert_same(name: str, device: str) -> None:
    generators = [generator.get_state() for generator in torch.cuda.default_generators]
    found = flat(ENTRIES[name](Setting(torch.device(device))))
    for now, then in zip(torch.cuda.default_generators, generators, strict=True):
        torch.testing.assert_close(now.get_state(), then, rtol=0, atol=0)
    for ours, theirs in zip(found, _on_the_cpu(name), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.fixture
def default_cuda() -> Iterator[None]:
    torch.set_default_device("cuda")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("name", DENSE)
def test_on_the_second_device(name: str) -> None:
    _assert_same(name, "cuda:1")


@pytest.mark.parametrize("name", ENTRIES)
def test_on_the_cpu_while_the_default_device_is_another(name: str) -> None:
    expected = _on_the_cpu(name)
    torch.set_default_device("cuda")
    try:
        found = flat(ENTRIES[name](Setting(CPU)))
    finally:
        torch.set_default_device(None)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("default_cuda")
@pytest.mark.parametrize("name", DENSE)
def test_on_the_default_device(name: str) -> None:
    _assert_same(name, "cuda:0")


@pytest.mark.parametrize("name", DENSE)
def test_without_float64(name: str) -> None:
    expected = _on_the_cpu(name)
    with pretended.without_float64():
        found = flat(ENTRIES[name](Setting(torch.device("cuda:0"))))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
