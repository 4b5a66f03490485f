"""Fixtures of the contract tests: the three kinds of tensor each item is tested with, and the same draws always."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing._internal.logging_tensor import LoggingTensor

from .logging_tensor import LoggedTensor

# The first use of forward mode in a process makes PyTorch compile its own decompositions with the deprecated
# torch.jit.script, and warn of itself. Once is here.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "`torch.jit.script` is")
    torch.func.jvp(torch.sin, (torch.ones(()),), (torch.ones(()),))


def _plain(tensor: Tensor, requires_grad: bool = False) -> Tensor:
    return tensor.detach().requires_grad_() if requires_grad else tensor.detach()


def _torch_logged(tensor: Tensor, requires_grad: bool = False) -> Tensor:
    return LoggingTensor(tensor, requires_grad=requires_grad)


@pytest.fixture(params=[_plain, LoggedTensor, _torch_logged], ids=["plain", "logged", "torch_logged"])
def wrap(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    """Makes the tensor under test of a plain one: that tensor itself, or a wrapper subclass around it."""
    return request.param


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    torch.manual_seed(7)
