"""The Jacobian operator against torch.func.jacrev and closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hesse

DOUBLE = torch.float64


def func(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    return {"outer": torch.outer(x.sin(), y), "sum": (x**2).sum()}


INPUTS = (
    torch.randn(3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)),
    torch.randn(2, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)),
)


def dense() -> Tensor:
    blocks = torch.func.jacrev(func, argnums=(0, 1))(*INPUTS)
    rows = [
        torch.cat([block.reshape(m, -1) for block in blocks[name]], dim=1) for name, m in (("outer", 6), ("sum", 1))
    ]
    return torch.cat(rows)


@pytest.mark.parametrize("batching", ["auto", "loop", "vmap"])
def test_products_with_the_jacobian_and_its_transpose_are_those_of_the_matrix(batching: str) -> None:
    J = hesse.Jacobian(func, INPUTS, batching=batching)
    matrix = dense()
    assert J.shape == (7, 5)
    assert not J.symmetric
    torch.testing.assert_close(J.to_dense(), matrix)
    torch.testing.assert_close(J.T.to_dense(), matrix.mT)
    V = torch.randn(5, 9, dtype=DOUBLE)
    U = torch.randn(7, 9, dtype=DOUBLE)
    torch.testing.assert_close(J @ V, matrix @ V)
    torch.testing.assert_close(J.T @ U, matrix.mT @ U)


def test_structured_products_go_from_inputs_to_outputs_and_back() -> None:
    J = hesse.Jacobian(func, INPUTS)
    matrix = dense()
    pushed = J @ INPUTS
    assert list(pushed) == ["outer", "sum"]
    torch.testing.assert_close(
        torch.cat([pushed["outer"].reshape(-1), pushed["sum"].reshape(1)]), matrix @ torch.cat(INPUTS)
    )
    pulled = J.T @ pushed
    assert isinstance(pulled, tuple)
    torch.testing.assert_close(torch.cat(pulled), matrix.mT @ matrix @ torch.cat(INPUTS))
    torch.testing.assert_close(J.T.T @ INPUTS, pushed)


def test_value_is_what_the_function_returned() -> None:
    J = hesse.Jacobian(lambda x, y: (func(x, y), "aux"), INPUTS, has_aux=True)
    torch.testing.assert_close(J.value, func(*INPUTS))
    assert J.aux == "aux"
    torch.testing.assert_close(J.at((2 * INPUTS[0], INPUTS[1])).value, func(2 * INPUTS[0], INPUTS[1]))


def test_an_output_that_depends_on_nothing_has_zero_rows() -> None:
    J = hesse.Jacobian(lambda x: (x * 2, torch.ones(2)), torch.ones(3))
    torch.testing.assert_close(J.to_dense(), torch.cat([2 * torch.eye(3), torch.zeros(2, 3)]))
    torch.testing.assert_close(J.T @ torch.ones(5), torch.full((3,), 2.0))


def test_products_are_differentiable_on_request() -> None:
    x = INPUTS[0].clone().requires_grad_()
    v = torch.ones(3, dtype=DOUBLE, requires_grad=True)

    def product(x: Tensor, v: Tensor) -> Tensor:
        return hesse.Jacobian(torch.sin, x, create_graph=True) @ v

    torch.testing.assert_close(product(x, v), x.cos())
    assert torch.autograd.gradcheck(product, (x, v))


def test_a_wider_output_is_not_rounded_to_the_inputs_dtype() -> None:
    x = torch.tensor([1.1, 2.3])
    J = hesse.Jacobian(lambda x: x.double() ** 3, x)
    assert J.dtype == J.T.dtype == DOUBLE
    expected = torch.diag(3 * x.double() ** 2)
    torch.testing.assert_close(J @ torch.eye(2, dtype=DOUBLE), expected, rtol=1e-7, atol=1e-7)
    assert (J @ torch.ones(2, 1)).dtype == DOUBLE


def test_a_complex_or_forward_matrix_that_would_lose_a_part_is_refused() -> None:
    z = torch.tensor([1 + 2j, 3 - 1j])
    for options in ({}, {"vectorize": True}):
        with pytest.raises(RuntimeError, match="needs real outputs"):
            hesse.functional.jacobian(lambda z: z * z, z, **options)
    with pytest.raises(RuntimeError, match="needs real inputs"):
        hesse.functional.jacobian(lambda z: z.abs() ** 2, z, vectorize=True, strategy="forward-mode")
