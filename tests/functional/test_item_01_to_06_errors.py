"""Section 2, items 1 to 6: what vhp and hvp refuse, with what error and which words."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from .families import PRODUCTS, each_product, first_three, pair_sum

Wrap = Callable[..., Tensor]


@each_product
def test_item_01_an_input_that_is_no_tensor_is_named_by_index_and_type(name: str, wrap: Wrap) -> None:
    message = (
        f"The inputs given to {name} must be either a Tensor or a tuple of Tensors but the value at index 1"
        " has type <class 'int'>."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        PRODUCTS[name](first_three, (wrap(torch.rand(4)), 2), wrap(torch.rand(4)))


@each_product
def test_item_01_what_is_no_tensor_is_told_before_a_tensor_of_integers(name: str) -> None:
    with pytest.raises(TypeError, match="the value at index 1 has type <class 'int'>"):
        PRODUCTS[name](first_three, (torch.arange(4), 2), torch.rand(4))


@each_product
def test_item_01_a_lone_input_that_is_no_tensor_is_named_by_type(name: str) -> None:
    message = (
        f"The inputs given to {name} must be either a Tensor or a tuple of Tensors but the given inputs"
        " has type <class 'float'>."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        PRODUCTS[name](first_three, 1.0, torch.rand(4))


@each_product
def test_item_02_an_output_that_is_no_tensor_is_named_by_index_and_type(name: str, wrap: Wrap) -> None:
    message = (
        f"The outputs of the user-provided function given to {name} must be either a Tensor or a tuple of Tensors"
        " but the value at index 1 has type <class 'str'>."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        PRODUCTS[name](lambda a: (a.narrow(0, 0, 3), "bar"), wrap(torch.rand(4)), wrap(torch.rand(4)))


@each_product
@pytest.mark.parametrize("returned", [3.0, None])
def test_item_02_a_lone_output_that_is_no_tensor_is_named_by_type(name: str, returned: float | None) -> None:
    with pytest.raises(TypeError, match=f"function given to {name} must be .* has type {type(returned)}"):
        PRODUCTS[name](lambda a: returned, torch.rand(4), torch.rand(4))


@each_product
def test_item_03_an_output_of_several_elements_is_refused(name: str, wrap: Wrap) -> None:
    message = f"The Tensor returned by the function given to {name} should contain a single element"
    with pytest.raises(RuntimeError, match=f"^{message}$"):
        PRODUCTS[name](lambda a: 3 * a.narrow(0, 0, 3), wrap(torch.rand(4)), wrap(torch.rand(4)))


@each_product
def test_item_04_a_vector_of_the_wrong_size_is_refused_with_both_sizes(name: str, wrap: Wrap) -> None:
    message = "v has invalid size: should be torch.Size([4]) but got torch.Size([5])."
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        PRODUCTS[name](first_three, wrap(torch.rand(4)), wrap(torch.rand(5)))


@each_product
def test_item_04_an_entry_of_the_wrong_size_is_named_by_index(name: str, wrap: Wrap) -> None:
    inputs = (wrap(torch.rand(3)), wrap(torch.rand(4)))
    message = "Entry 1 in v has invalid size: should be torch.Size([4]) but got torch.Size([1, 4])."
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        PRODUCTS[name](pair_sum, inputs, (wrap(torch.rand(3)), wrap(torch.rand(1, 4))))


@each_product
def test_item_05_the_types_in_v_are_checked_before_its_length(name: str, wrap: Wrap) -> None:
    message = (
        f"The v given to {name} must be either a Tensor or a tuple of Tensors but the value at index 1 has type"
        " <class 'int'>."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        PRODUCTS[name](first_three, wrap(torch.rand(4)), (wrap(torch.rand(4)), 2))


@each_product
def test_item_05_a_vector_that_is_no_tensor_is_named_by_type(name: str) -> None:
    with pytest.raises(TypeError, match=f"The v given to {name} must be .* given v has type <class 'float'>"):
        PRODUCTS[name](first_three, torch.rand(4), 1.0)


@each_product
def test_item_06_a_vector_of_the_wrong_length_is_refused_with_both_lengths(name: str, wrap: Wrap) -> None:
    inputs = (wrap(torch.rand(3)), wrap(torch.rand(4)))
    for entries in (1, 3):
        message = f"v is a tuple of invalid length: should be 2 but got {entries}."
        with pytest.raises(RuntimeError, match=f"^{message}$"):
            PRODUCTS[name](pair_sum, inputs, (wrap(torch.rand(3)),) * entries)


@each_product
def test_item_06_one_input_wants_one_tensor_in_v(name: str, wrap: Wrap) -> None:
    v = wrap(torch.rand(4))
    with pytest.raises(RuntimeError, match=r"^The given v should contain a single Tensor\.$"):
        PRODUCTS[name](first_three, wrap(torch.rand(4)), (v, v))


@each_product
@pytest.mark.parametrize("entries", [1, 2])
def test_item_06_an_output_that_is_a_tuple_is_refused(name: str, entries: int, wrap: Wrap) -> None:
    with pytest.raises(RuntimeError, match=f"^The function given to {name} should return a single Tensor$"):
        PRODUCTS[name](lambda a: (a.sum(),) * entries, wrap(torch.rand(4)), wrap(torch.rand(4)))


@each_product
@pytest.mark.parametrize("count", [1, 2], ids=["one_input", "two_inputs"])
def test_item_06_v_may_not_be_left_out_for_several_elements(name: str, count: int, wrap: Wrap) -> None:
    message = (
        "The vector v can only be None if the input to the user-provided function is a single Tensor with a"
        " single element."
    )
    inputs = wrap(torch.rand(4)) if count == 1 else (wrap(torch.rand(1)), wrap(torch.rand(1)))
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        PRODUCTS[name](lambda *a: a[0].sum(), inputs)


@each_product
@pytest.mark.parametrize(
    "v",
    [None, torch.rand(5), (torch.rand(4), torch.rand(4)), (torch.rand(4), 2), 1.0],
    ids=["none", "size", "length", "type_in_tuple", "type"],
)
def test_item_06_v_is_checked_before_the_function_runs(name: str, v: Tensor | None) -> None:
    def never(a: Tensor) -> Tensor:
        raise AssertionError("the function ran")

    with pytest.raises((RuntimeError, TypeError)):
        PRODUCTS[name](never, torch.rand(4), v)
