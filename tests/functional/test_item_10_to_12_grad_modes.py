"""Section 2, items 10 to 12: when the results of vhp and hvp have a history, whatever the grad mode around."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from .families import PRODUCTS, each_product, pair_sum
from .references import DOUBLE, assert_values, dense_product, has_history, has_no_history

Wrap = Callable[..., Tensor]


@each_product
def test_item_10_no_grad_around_gives_right_values_without_history(name: str, wrap: Wrap) -> None:
    x, v = torch.rand(4, 4), torch.rand(4, 4)
    with torch.no_grad():
        output, product = PRODUCTS[name](lambda a: a.exp().sum(), wrap(x), wrap(v))
    assert has_no_history((output, product))
    assert_values(output, x.exp().sum())
    assert_values(product, x.exp() * v)


@each_product
@pytest.mark.parametrize("requires_grad", [False, True])
def test_item_11_no_grad_around_create_graph_gives_both_results_a_grad_fn(
    name: str, requires_grad: bool, wrap: Wrap
) -> None:
    x, v = torch.rand(4, 4), torch.rand(4, 4)
    with torch.no_grad():
        output, product = PRODUCTS[name](
            lambda a: a.exp().sum(),
            wrap(x, requires_grad=requires_grad),
            wrap(v, requires_grad=requires_grad),
            create_graph=True,
        )
    assert has_history((output, product))
    assert_values(product, x.exp() * v)


@each_product
@pytest.mark.parametrize("of_inputs", [False, True], ids=["inputs_constant", "inputs_require_grad"])
@pytest.mark.parametrize("of_v", [False, True], ids=["v_constant", "v_requires_grad"])
@pytest.mark.parametrize("of_captured", [False, True], ids=["captured_constant", "captured_requires_grad"])
def test_item_12_without_create_graph_no_result_has_a_history(
    name: str, of_inputs: bool, of_v: bool, of_captured: bool, wrap: Wrap
) -> None:
    captured = wrap(torch.rand(3), requires_grad=of_captured)
    inputs = (wrap(torch.rand(3), requires_grad=of_inputs), wrap(torch.rand(4), requires_grad=of_inputs))
    v = (wrap(torch.ones(3), requires_grad=of_v), wrap(torch.ones(4), requires_grad=of_v))
    results = PRODUCTS[name](lambda a, b: pair_sum(a * captured, b), inputs, v)
    assert has_no_history(results)


@each_product
def test_item_12_a_zero_product_and_a_captured_output_have_no_history_either(name: str, wrap: Wrap) -> None:
    captured = wrap(torch.rand(()), requires_grad=True)
    output, product = PRODUCTS[name](lambda a: captured * 2, wrap(torch.rand(3)), wrap(torch.rand(3)))
    assert has_no_history((output, product))
    assert_values(product, torch.zeros(3))


@each_product
def test_item_12_with_create_graph_both_results_have_a_history(name: str, wrap: Wrap) -> None:
    x, y, v, w = (torch.rand(n, dtype=DOUBLE) for n in (3, 4, 3, 4))
    inputs = (wrap(x, requires_grad=True), wrap(y, requires_grad=True))
    results = PRODUCTS[name](pair_sum, inputs, (wrap(v), wrap(w)), create_graph=True)
    assert has_history(results)
    assert_values(results[1], dense_product(pair_sum, (x, y), (v, w)), rtol=1e-6, atol=1e-8)


@each_product
def test_grad_modes_are_put_back_also_after_an_error(name: str) -> None:
    def fail(a: Tensor) -> Tensor:
        raise KeyError("of the function")

    with torch.no_grad():
        PRODUCTS[name](lambda a: a.exp().sum(), torch.rand(3), torch.rand(3))
        assert not torch.is_grad_enabled()
        with pytest.raises(KeyError, match="of the function"):
            PRODUCTS[name](fail, torch.rand(3), torch.rand(3))
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
