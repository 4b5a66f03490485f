"""Every entry point on a second device, and on an accelerator that is the default device and has no float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.device import pretended
from tests.device.entries import DENSE, assert_same_as_on_the_cpu

# Few products are enough to tell whether devices agree.
pytestmark = pytest.mark.filterwarnings("ignore::hesse.ConvergenceWarning")


@pytest.fixture
def default_cuda() -> Iterator[None]:
    torch.set_default_device("cuda")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.one_in(5)
def test_on_the_second_device(name: str) -> None:
    assert_same_as_on_the_cpu(name, "cuda:1")


@pytest.mark.usefixtures("default_cuda")
@pytest.mark.parametrize("name", DENSE)
@pytest.mark.one_in(5)
def test_on_the_default_device_without_float64(name: str) -> None:
    with pretended.without_float64():
        assert_same_as_on_the_cpu(name, "cuda:0")
