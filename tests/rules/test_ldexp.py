"""``ldexp``: numbers times powers of two, of integers and of numbers that are followed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.functional.references import DOUBLE

from .judge import assert_as_written_out

X = torch.tensor([[0.3, -0.7, 1.3, 0.2], [0.0, 1.1, -0.4, 0.9]], dtype=DOUBLE)
INTEGERS = torch.tensor([1, -2, 0, -1])

PAIRS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "integers": (lambda x: torch.ldexp(x.sin(), INTEGERS), lambda x: x.sin() * 2.0**INTEGERS),
    "in place": (lambda x: x.sin().ldexp_(INTEGERS), lambda x: x.sin() * 2.0**INTEGERS),
    "followed": (
        lambda x: torch.ldexp(x.sin(), x),
        lambda x: x.sin() * (x * torch.log(torch.tensor(2.0, dtype=DOUBLE))).exp(),
    ),
}


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.one_in(3)
def test_derivatives_are_those_of_a_product(name: str) -> None:
    func, same = PAIRS[name]
    assert_as_written_out(lambda x: func(x).sin().sum(), lambda x: same(x).sin().sum(), (X,))


def test_pytorch_has_the_wrong_gradient_of_negative_integers() -> None:
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(torch.ldexp(x, INTEGERS).sum(), x)
    assert not torch.allclose(gradient, (2.0**INTEGERS).to(DOUBLE).expand_as(x))
