"""Section 4, row 5: dicts, lists, dataclasses and nests of them as inputs; only an outermost tuple is splatted."""

from __future__ import annotations

import re
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hesse
from hesse import functional

from .families import PRODUCTS, each_product
from .references import DOUBLE, assert_values, dense_product


@dataclass
class Pair:
    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class Frozen:
    """Refuses assignment, and computes in its own __init__ what must not be computed again."""

    inner: Tensor

    def __post_init__(self) -> None:
        assert isinstance(self.inner, Tensor)


Named = namedtuple("Named", ["first", "second"])


def _points() -> tuple[Tensor, ...]:
    return tuple(torch.rand(3, dtype=DOUBLE) for _ in range(4))


def _coupled(a: Tensor, b: Tensor) -> Tensor:
    return (a**2 * b.sin()).sum()


@each_product
def test_a_list_is_one_argument(name: str) -> None:
    a, b, v, w = _points()
    seen: list[Any] = []

    def func(entries: list[Tensor]) -> Tensor:
        seen.append(entries)
        return _coupled(*entries)

    product = PRODUCTS[name](func, [a, b], [v, w])[1]
    assert isinstance(seen[0], list)
    assert isinstance(product, list)
    assert_values(tuple(product), dense_product(_coupled, (a, b), (v, w)), rtol=1e-6, atol=1e-8)


@each_product
def test_a_dict_is_one_argument_and_its_vector_may_come_in_another_order(name: str) -> None:
    a, b, v, w = _points()
    product = PRODUCTS[name](lambda p: _coupled(p["a"], p["b"]), {"a": a, "b": b}, {"b": w, "a": v})[1]
    assert list(product) == ["a", "b"]
    expected = dense_product(_coupled, (a, b), (v, w))
    assert_values((product["a"], product["b"]), expected, rtol=1e-6, atol=1e-8)


@each_product
def test_an_ordered_dict_gives_an_ordered_dict(name: str) -> None:
    a, b, v, w = _points()
    inputs, vector = OrderedDict(z=a, y=b), OrderedDict(z=v, y=w)
    product = PRODUCTS[name](lambda p: _coupled(p["z"], p["y"]), inputs, vector)[1]
    assert type(product) is OrderedDict
    expected = dense_product(_coupled, (a, b), (v, w))
    assert_values((product["z"], product["y"]), expected, rtol=1e-6, atol=1e-8)


@each_product
def test_a_dataclass_is_one_argument(name: str) -> None:
    a, b, v, w = _points()
    product = PRODUCTS[name](lambda p: _coupled(p.first, p.second), Pair(a, b), Pair(v, w))[1]
    assert isinstance(product, Pair)
    expected = dense_product(_coupled, (a, b), (v, w))
    assert_values((product.first, product.second), expected, rtol=1e-6, atol=1e-8)


@each_product
def test_a_tuple_of_nests_is_splatted_once(name: str) -> None:
    a, b, v, w = _points()

    def func(nest: dict[str, Any], frozen: Frozen) -> Tensor:
        return _coupled(nest["deep"][0][0], frozen.inner)

    product = PRODUCTS[name](func, ({"deep": [(a,)]}, Frozen(b)), ({"deep": [(v,)]}, Frozen(w)))[1]
    assert isinstance(product, tuple)
    expected = dense_product(_coupled, (a, b), (v, w))
    assert_values((product[0]["deep"][0][0], product[1].inner), expected, rtol=1e-6, atol=1e-8)


@each_product
def test_a_nested_tuple_is_one_argument(name: str) -> None:
    a, b, v, w = _points()
    product = PRODUCTS[name](lambda pair: _coupled(*pair), ((a, b),), ((v, w),))[1]
    assert_values(product[0], dense_product(_coupled, (a, b), (v, w)), rtol=1e-6, atol=1e-8)


@each_product
def test_a_named_tuple_as_an_argument_keeps_its_type(name: str) -> None:
    a, b, v, w = _points()
    product = PRODUCTS[name](lambda p: _coupled(p.first, p.second), (Named(a, b),), (Named(v, w),))[1]
    assert type(product[0]) is Named
    assert_values(tuple(product[0]), dense_product(_coupled, (a, b), (v, w)), rtol=1e-6, atol=1e-8)


@each_product
def test_the_parameters_of_a_model_are_a_dict(name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    data = torch.rand(5, 3, dtype=DOUBLE)
    parameters = dict(model.named_parameters())
    names, leaves = list(parameters), [p.detach() for p in parameters.values()]
    vector = {key: torch.randn_like(leaf) for key, leaf in zip(names, leaves, strict=True)}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, parameters, (data,)).pow(2).sum()

    expected = dense_product(lambda *leaves: loss(dict(zip(names, leaves, strict=True))), leaves, list(vector.values()))
    product = PRODUCTS[name](loss, parameters, vector)[1]
    assert all(type(entry) is Tensor for entry in product.values())
    assert_values(tuple(product.values()), expected, rtol=1e-6, atol=1e-8)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_vjp_and_jvp_take_structures_of_inputs_and_outputs() -> None:
    x, v, w, _ = _points()

    def func(p: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"exp": p["x"].exp(), "sin": p["x"].sin()}

    outputs, product = functional.vjp(func, {"x": x}, {"exp": v, "sin": w})
    assert_values(outputs["exp"], x.exp())
    assert_values(product["x"], x.exp() * v + x.cos() * w)
    outputs, product = functional.jvp(func, {"x": x}, {"x": v})
    assert_values((product["exp"], product["sin"]), (x.exp() * v, x.cos() * v))


def test_jacobian_and_hessian_take_structures() -> None:
    x, y, _, _ = _points()
    blocks = functional.jacobian(lambda p: {"out": p["x"].exp()}, {"x": x, "y": y})
    assert_values(blocks["out"]["x"], torch.diag(x.exp()))
    assert_values(blocks["out"]["y"], torch.zeros(3, 3, dtype=DOUBLE))
    blocks = functional.hessian(lambda p: (p["x"] ** 2 * p["y"]).sum(), {"x": x, "y": y})
    assert_values(blocks["x"]["x"], torch.diag(2 * y))
    assert_values(blocks["x"]["y"], torch.diag(2 * x))
    assert_values(blocks["y"]["x"], torch.diag(2 * x))


WRONG: dict[str, tuple[Any, Any, str]] = {
    "missing_key": ({"a": 3, "b": 3}, {"a": 3}, "v has an invalid structure: entry ['b'] of it is missing."),
    "extra_key": ({"a": 3}, {"a": 3, "c": 3}, "v has an invalid structure: it has an entry ['c'] too many."),
    "size": ({"a": 3}, {"a": 4}, "Entry ['a'] in v has invalid size: should be torch.Size([3]) but got"),
    "shorter_list": ([3, 3], [3], "v has an invalid structure: entry [1] of it is missing."),
    "nested": (([3], {"a": [3]}), ([3], {"a": [4]}), "Entry [1]['a'][0] in v has invalid size: should be"),
    "dict_for_tensor": (3, {"a": 3}, "v has an invalid structure: it should be a Tensor, as the input is."),
    "tensor_for_dict": ({"a": 3}, 3, "v has an invalid structure: entry ['a'] of it is missing."),
}


def _grown(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _grown(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_grown(value) for value in tree)
    return torch.ones(tree)


@each_product
@pytest.mark.parametrize("case", WRONG)
def test_a_vector_of_another_structure_is_refused_with_the_entry(name: str, case: str) -> None:
    inputs, vector, message = WRONG[case]
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}"):
        PRODUCTS[name](lambda *a: torch.zeros(()), _grown(inputs), _grown(vector))


@each_product
def test_what_is_no_tensor_inside_a_structure_is_named(name: str) -> None:
    for inputs in ({"a": torch.ones(1), "b": [2]}, ({"a": torch.ones(1), "b": [2]},)):
        with pytest.raises(TypeError, match=r"value at (\[0\])?\['b'\]\[0\] has type <class 'int'>\.$"):
            PRODUCTS[name](lambda p: p["a"].sum(), inputs)


def test_the_tuple_of_a_tensor_and_a_number_still_raises_as_in_item_01() -> None:
    with pytest.raises(TypeError, match="the value at index 1 has type <class 'int'>"):
        hesse.vhp(lambda a, b: a.sum(), (torch.rand(3), 2), torch.rand(3))
