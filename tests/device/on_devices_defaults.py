"""Every entry point with an accelerator as the default device, on it and on the CPU, and on one without float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.device import pretended
from tests.device.entries import CPU, DENSE, ENTRIES, Setting, assert_same_as_on_the_cpu, flat

# Few products are enough to tell whether devices agree.
pytestmark = pytest.mark.filterwarnings("ignore::hesse.ConvergenceWarning")


@pytest.fixture
def default_cuda() -> Iterator[None]:
    torch.set_default_device("cuda")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("name", ENTRIES)
def test_on_the_cpu_while_the_default_device_is_another(name: str) -> None:
    expected = flat(ENTRIES[name](Setting(CPU)))
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
    assert_same_as_on_the_cpu(name, "cuda:0")


@pytest.mark.parametrize("name", DENSE)
def test_without_float64(name: str) -> None:
    with pretended.without_float64():
        assert_same_as_on_the_cpu(name, "cuda:0")
