"""Section 1: the examples of the page of vhp, what its table promises, and the docstrings of the family."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest
import torch
from torch import Tensor

import hesse


def test_example_1_cubes_give_six_x_v() -> None:
    """Section 1, example 1."""
    x, v = torch.rand(2, 2), torch.ones(2, 2)
    output, product = hesse.vhp(lambda x: x.pow(3).sum(), x, v)
    torch.testing.assert_close(output, (x**3).sum())
    torch.testing.assert_close(product, 6 * x * v)


def test_example_2_create_graph_gives_both_results_a_grad_fn() -> None:
    """Section 1, example 2, the table's row create_graph."""
    x, v = torch.rand(2, 2), torch.ones(2, 2)
    output, product = hesse.vhp(lambda x: x.pow(3).sum(), x, v, create_graph=True)
    assert output.grad_fn is not None
    assert product.grad_fn is not None
    torch.testing.assert_close(product, 6 * x * v)


def test_example_3_a_vector_of_zeros_and_ones_picks_a_block() -> None:
    """Section 1, example 3; tuple in, tuple out."""

    def func(x: Tensor, y: Tensor) -> Tensor:
        return (2 * x.pow(2) + 3 * y.pow(2)).sum()

    x, y = torch.rand(2), torch.rand(2)
    output, product = hesse.vhp(func, (x, y), (torch.zeros(2), torch.ones(2)))
    torch.testing.assert_close(output, func(x, y))
    assert isinstance(product, tuple)
    torch.testing.assert_close(product, (torch.zeros(2), torch.full((2,), 6.0)))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_example_4_v_may_be_left_out_for_a_single_element(shape: tuple[int, ...]) -> None:
    """Section 1, example 4, the table's row v."""
    x = torch.rand(shape)
    torch.testing.assert_close(hesse.vhp(lambda x: (x**3).sum(), x)[1], 6 * x)


def test_not_strict_may_return_what_requires_no_gradients() -> None:
    """Section 1, the table's row create_graph: with strict=False the result may still be cut off."""
    output, product = hesse.vhp(lambda x: x.detach().pow(2).sum(), torch.rand(3), torch.rand(3), create_graph=True)
    assert not output.requires_grad
    torch.testing.assert_close(product, torch.zeros(3))


@pytest.mark.parametrize("name", ["vhp", "hvp", "vjp", "jvp", "jacobian", "hessian"])
def test_signature_begins_with_the_parameters_of_torch(name: str) -> None:
    """Section 1: the signature. What is added is keyword-only."""
    ours = list(inspect.signature(getattr(hesse.functional, name)).parameters.values())
    theirs = list(inspect.signature(getattr(torch.autograd.functional, name)).parameters.values())
    described = [(p.name, p.default, p.kind) for p in ours]
    assert described[: len(theirs)] == [(p.name, p.default, p.kind) for p in theirs]
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])


@pytest.mark.parametrize("name", ["vhp", "hvp", "vjp", "jvp", "jacobian", "hessian"])
def test_docstring_example_runs(name: str) -> None:
    # The package's attribute of this name is the function, so the module must be asked for by import.
    module = importlib.import_module(f"hesse.functional._{name}")
    result = doctest.testmod(module)
    assert result.attempted >= 2
    assert result.failed == 0
