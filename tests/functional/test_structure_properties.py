"""Section 4, row 5, for random structures and shapes: closed forms of a known cubic, and vectors that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hesse
from hesse import functional

from .families import PRODUCTS, each_product
from .structures import KEYS, MISFITS, REPRODUCIBLE, STRUCTURES, assert_alike, leaves_of, mapped


def _cubes(*arguments: Any) -> Tensor:
    """Σ x³ over all leaves, in float64 whatever their dtypes."""
    return sum(((leaf.double() ** 3).sum() for leaf in leaves_of(list(arguments))), torch.zeros(()).double())


def _vector_like(tree: Any) -> Any:
    return mapped(lambda leaf: torch.full_like(leaf, 0.5), tree)


@each_product
@REPRODUCIBLE
@given(inputs=STRUCTURES, create_graph=st.booleans())
@pytest.mark.one_in(2)
def test_the_product_of_a_cubic_has_its_closed_form_in_the_structure_of_the_inputs(
    name: str, inputs: Any, create_graph: bool
) -> None:
    output, product = PRODUCTS[name](_cubes, inputs, _vector_like(inputs), create_graph)
    torch.testing.assert_close(output.detach(), _cubes(inputs))
    expected = mapped(lambda x, v: (6 * x.double() * v.double()).to(x.dtype), inputs, _vector_like(inputs))
    assert_alike(mapped(torch.Tensor.detach, product), expected)


@REPRODUCIBLE
@given(inputs=STRUCTURES)
def test_jvp_and_vjp_of_cubes_have_their_closed_forms_in_the_structure_of_the_inputs(inputs: Any) -> None:
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    v = _vector_like(arguments)
    expected = mapped(lambda x, v: 3 * x.double() ** 2 * v.double(), arguments, v)
    product = functional.jvp(lambda *p: list(mapped(lambda x: x.double() ** 3, p)), arguments, v)[1]
    assert_alike(product, list(expected))
    gradient = functional.vjp(_cubes, inputs)[1]
    assert_alike(gradient, mapped(lambda x: (3 * x.double() ** 2).to(x.dtype), inputs))


@REPRODUCIBLE
@given(inputs=STRUCTURES, data=st.data())
def test_a_dict_may_come_in_another_order_in_the_vector(inputs: Any, data: st.DataObject) -> None:
    def shuffled(tree: Any) -> Any:
        if isinstance(tree, dict):
            keys = data.draw(st.permutations(list(tree)))
            return {key: shuffled(tree[key]) for key in keys}
        if isinstance(tree, list | tuple):
            return type(tree)(shuffled(entry) for entry in tree)
        return tree

    scaled = mapped(lambda x: 2 * x, inputs)
    assert_alike(hesse.vhp(_cubes, inputs, shuffled(scaled))[1], hesse.vhp(_cubes, inputs, scaled)[1])


@each_product
@pytest.mark.parametrize("misfit", MISFITS)
@REPRODUCIBLE
@given(inputs=STRUCTURES)
@pytest.mark.one_in(4)
def test_a_vector_that_does_not_fit_raises_one_sentence_and_changes_nothing(
    name: str, misfit: str, inputs: Any
) -> None:
    calls: list[Any] = []
    before = mapped(torch.clone, inputs)
    vector = MISFITS[misfit](_vector_like(inputs))

    def func(*arguments: Any) -> Tensor:
        calls.append(arguments)
        return _cubes(*arguments)

    with pytest.raises((RuntimeError, TypeError, ValueError)) as caught:
        PRODUCTS[name](func, inputs, vector)
    message = str(caught.value)
    assert "v" in message
    assert "\n" not in message
    assert len(message) < 300
    assert message[0].isupper() or message.startswith("v ")
    assert calls == []
    assert_alike(inputs, before)
    assert not any(leaf.requires_grad or leaf.grad is not None for leaf in leaves_of(inputs))


@each_product
@REPRODUCIBLE
@given(inputs=st.dictionaries(KEYS, STRUCTURES, min_size=2, max_size=3), data=st.data())
def test_a_key_that_is_missing_is_named(name: str, inputs: Any, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(list(inputs)))
    vector = {k: value for k, value in _vector_like(inputs).items() if k != key}
    with pytest.raises(RuntimeError, match=r"v has an invalid structure: entry .* is missing") as caught:
        PRODUCTS[name](_cubes, inputs, vector)
    assert f"[{key!r}]" in str(caught.value)
