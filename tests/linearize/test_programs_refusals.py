"""What cannot be captured is refused in one sentence that names the operator, the tensor or the line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hesse
from hesse._linearize import engines

from . import programs

X = torch.tensor([1.0, 2.0, 3.0])
_sparse = torch.eye(3).to_sparse()


def branches(x: Tensor) -> Tensor:
    return (x**3).sum() if x.sum() > 0 else x.sum()


def reads_its_input(x: Tensor) -> Tensor:
    return (x**2).sum() * float(x[0])


def reads_what_it_writes(x: Tensor) -> Tensor:
    found = torch.zeros(3)
    found[1:] = x.detach()[1:]
    return (x**2).sum() * found[2].item()


def selects_by_values(x: Tensor) -> Tensor:
    return (x[x > 1] ** 3).sum()


def leaves_for_numpy(x: Tensor) -> Tensor:
    return (x**2).sum() * float(x.detach().numpy()[0])


def captures_a_sparse_matrix(x: Tensor) -> Tensor:
    return (torch.sparse.mm(_sparse, x[:, None]) ** 2).sum()


def draws_from_its_own_generator(x: Tensor) -> Tensor:
    return (torch.rand(3, generator=torch.Generator().manual_seed(0)) * x**2).sum()


def seeds_itself(x: Tensor) -> Tensor:
    torch.manual_seed(5)
    return (torch.rand(3) * x**2).sum()


REFUSED: list[tuple[Callable[..., Tensor], str]] = [
    (branches, r"aten\._local_scalar_dense.*line \d+: return \(x\*\*3\)\.sum\(\) if x\.sum\(\) > 0"),
    (reads_its_input, r"aten\._local_scalar_dense.*line \d+: return .*float\(x\[0\]\)"),
    (reads_what_it_writes, r"aten\._local_scalar_dense.*line \d+: .*found\[2\]\.item\(\)"),
    (selects_by_values, r"aten\.nonzero.*line \d+: return \(x\[x > 1\]"),
    (leaves_for_numpy, r"without data it raises RuntimeError: .*line \d+: .*numpy"),
    (captures_a_sparse_matrix, r"a tensor of shape \(3, 3\), layout torch\.sparse_coo.*line \d+: .*sparse\.mm"),
    (draws_from_its_own_generator, r"aten\.rand.*draws from a generator of its own.*line \d+"),
    (seeds_itself, r"it sets the state of the random generator and draws by aten\.rand"),
]


@pytest.mark.parametrize(("func", "named"), REFUSED, ids=[func.__name__ for func, _ in REFUSED])
def test_a_function_that_cannot_be_captured_is_refused_by_name(func: Callable[..., Tensor], named: str) -> None:
    with pytest.raises(hesse.CaptureError, match=named) as caught:
        programs.hessian(func, X)
    assert str(caught.value).startswith('engine="compiled" cannot take this function: ')
    assert str(caught.value).endswith('Use engine="tape", or "auto".')
    assert "\n" not in str(caught.value)


# PyTorch says so once a process, of a function that reads a value of its input.
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("func", [func for func, _ in REFUSED], ids=[func.__name__ for func, _ in REFUSED])
@pytest.mark.one_in(3)
def test_auto_multiplies_all_the_same(func: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    # What costs nothing is tried, however long a product takes.
    for price in ("FIXED_PRICE", "NODE_PRICE"):
        monkeypatch.setattr(engines, price, 0.0)
    H = hesse.Hessian(func, X, engine="auto", expect=engines.FEW)
    with pytest.warns(UserWarning, match="goes on with the tape"):
        products = [H @ X for _ in range(3)]
    for product in products:
        torch.testing.assert_close(product, hesse.vhp(func, X, X)[1])


def test_inputs_that_have_no_stand_in_are_refused() -> None:
    with pytest.raises(hesse.CaptureError, match=r"The input is a tensor of shape \(3, 3\), layout torch.sparse_coo"):
        programs.hessian(lambda x: torch.sparse.sum(x * x), _sparse.clone())


def test_what_the_function_itself_raises_passes_through() -> None:
    def fails(x: Tensor) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        programs.hessian(fails, X)
    with pytest.raises(RuntimeError, match="should contain a single element"):
        programs.hessian(lambda x: x * 2, X)


def test_an_operator_that_a_rule_gives_its_second_derivative_is_captured() -> None:
    def func(x: Tensor) -> Tensor:
        return (torch.nn.functional.hardsigmoid(x) ** 2).sum()

    # Between its kinks hardsigmoid is x/6 + 1/2; beyond them it is constant.
    inside = X.abs() < 3
    torch.testing.assert_close(programs.hessian(func, X) @ X, X * inside / 18)


def test_a_custom_operator_without_a_shape_function_is_named() -> None:
    @torch.library.custom_op("hesse_tests::twice", mutates_args=())
    def twice(x: Tensor) -> Tensor:
        return 2 * x

    twice.register_autograd(lambda ctx, grad: 2 * grad)
    with pytest.raises(hesse.CaptureError, match="hesse_tests::twice"):
        programs.hessian(lambda x: (twice(x) ** 3).sum(), X)
    twice.register_fake(torch.empty_like)
    # Registered, it is right; under forward mode its tangent would silently be zero.
    torch.testing.assert_close(programs.hessian(lambda x: (twice(x) ** 3).sum(), X) @ X, 48 * X**2)
