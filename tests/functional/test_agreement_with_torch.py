"""Section 2 and 3 at large: ours and torch.autograd.functional agree on a table of functions, vectors and flags.

Values, structure, dtypes, requires_grad, the presence of a grad_fn, and the type and text of errors. What section 4
changes on purpose is not in the table.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from hesse import functional

from .families import detached, disconnected, first_three, linear, pair_sum
from .references import DOUBLE

Shapes = tuple[tuple[int, ...], ...]


class Case(NamedTuple):
    """A function and the shapes of its inputs; ``lone``: one tensor is given as such, not in a tuple."""

    func: Callable[..., Any]
    shapes: Shapes
    lone: bool = True
    dtype: torch.dtype = DOUBLE


_model = nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 1)).double()

SCALARS: dict[str, Case] = {
    "cubic": Case(lambda x: (x**3).sum(), ((2, 2),)),
    "cubic_in_a_tuple": Case(lambda x: (x**3).sum(), ((2, 2),), lone=False),
    "quadratic": Case(lambda x: x.dot(x.flip(0)), ((3,),)),
    "linear": Case(linear, ((4,),)),
    "detached": Case(detached, ((4,),)),
    "disconnected": Case(disconnected, ((4,),)),
    "part": Case(first_three, ((4, 2),)),
    "pair": Case(pair_sum, ((3,), (4,)), lone=False),
    "pair_uncoupled": Case(lambda x, y: (x**3).sum() + (y**4).sum(), ((3,), (2,)), lone=False),
    "pair_of_one_unused": Case(lambda x, y: (x**3).sum(), ((3,), (2,)), lone=False),
    "pair_of_one_linear": Case(lambda x, y: (x**3).sum() + y.sum(), ((3,), (2,)), lone=False),
    "zero_dim": Case(torch.exp, ((),)),
    "one_element": Case(lambda x: x.sin(), ((1, 1),)),
    "output_of_three_dims": Case(lambda x: x.exp().sum().view(1, 1, 1), ((3,),)),
    "empty": Case(lambda x: (x**3).sum(), ((0, 2),)),
    "float32": Case(lambda x: (x**3).sum(), ((2, 2),), dtype=torch.float32),
    "complex": Case(lambda z: (z**3).real.sum(), ((3,),), dtype=torch.complex128),
    "model": Case(lambda x: _model(x).pow(2).mean(), ((2, 3),)),
    "captured_requires_grad": Case(lambda x: (x**3 * _model[0].bias[:3]).sum(), ((3,),)),
    "max": Case(lambda x: x.max() ** 3, ((4,),)),
    "several_elements": Case(lambda x: x**2, ((3,),)),
    "tuple": Case(lambda x: (x.sum(), x.sum()), ((3,),)),
    "tuple_of_one": Case(lambda x: (x.sum(),), ((3,),)),
    "no_tensor": Case(lambda x: 3, ((3,),)),
}
MAPS: dict[str, Case] = {
    "elementwise": Case(torch.exp, ((2, 2),)),
    "rows": Case(lambda x: x.exp().sum(dim=1), ((3, 2),)),
    "identity": Case(lambda x: x.clone(), ((3,),)),
    "pair_to_pair": Case(lambda x, y: (2 * x + 3 * y, x * y.exp()), ((2,), (2,)), lone=False),
    "unrelated": Case(lambda x, y: (x.sin(), y.clone()), ((2,), (3,)), lone=False),
    "constant_output": Case(lambda x: (x.exp(), x.detach()), ((2,),)),
    "disconnected": Case(lambda x: x.long().double().requires_grad_().clone(), ((3,),)),
    "scalar": Case(lambda x: x.prod() ** 2, ((3,),)),
    "zero_dim": Case(lambda x: x.sin().repeat(4), ((),)),
    "mixed_dtypes": Case(lambda x: (x.float() ** 2, x**2), ((3,),)),
    "no_tensor": Case(lambda x: (x, "bar"), ((3,),)),
}
VECTORS = ["right", "right_in_a_tuple", "float32", "none", "too_long", "wrong_size", "no_tensor"]
FLAGS = list(itertools.product([False, True], [False, True], [False, True]))


def _inputs(case: Case, requires_grad: bool) -> Any:
    torch.manual_seed(1)
    drawn = tuple(torch.rand(shape, dtype=case.dtype) + 0.5 for shape in case.shapes)
    drawn = tuple(tensor.requires_grad_(requires_grad) for tensor in drawn)
    return drawn[0] if case.lone else drawn


def _vector(kind: str, like: Any) -> Any:
    torch.manual_seed(2)
    right = tuple(torch.rand_like(entry) for entry in (like if isinstance(like, tuple) else (like,)))
    lone = right[0] if isinstance(like, Tensor) else right
    narrow = torch.complex64 if right[0].is_complex() else torch.float32
    forms = {
        "right": lone,
        "right_in_a_tuple": right,
        "float32": tuple(entry.to(narrow) for entry in right),
        "none": None,
        "too_long": (*right, right[0]),
        "wrong_size": (*right[:-1], torch.rand(7, dtype=right[0].dtype)),
        "no_tensor": (right[0], 2),
    }
    return forms[kind]


def _outcome(call: Callable[[], Any]) -> Any:
    """What a call came to, in a form that compares: descriptions of its tensors, or its error's type and text."""
    try:
        return _described(call())
    except Exception as error:
        return type(error), str(error)


def _described(value: Any) -> Any:
    if isinstance(value, tuple | list):
        # In forward mode PyTorch's jacobian gives lists where it gives tuples otherwise.
        return tuple(_described(entry) for entry in value)
    assert isinstance(value, Tensor)
    return value.shape, value.dtype, value.requires_grad, value.grad_fn is not None, type(value)


def _assert_agree(ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
    assert _outcome(ours) == _outcome(theirs)
    try:
        expected = theirs()
    except (RuntimeError, TypeError):
        return
    torch.testing.assert_close(ours(), expected)


@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("function", SCALARS)
@pytest.mark.parametrize("name", ["vhp", "hvp"])
@pytest.mark.one_in(5)
def test_products_with_the_hessian_agree(name: str, function: str, kind: str) -> None:
    case = SCALARS[function]
    for create_graph, strict, requires_grad in FLAGS:
        if name == "hvp" and strict:
            continue  # Section 4, last row: ours checks what PyTorch's forgets; see the strict tests.
        inputs = _inputs(case, requires_grad)
        arguments = (case.func, inputs, _vector(kind, inputs), create_graph, strict)
        _assert_agree(
            lambda arguments=arguments: getattr(functional, name)(*arguments),
            lambda arguments=arguments: getattr(torch.autograd.functional, name)(*arguments),
        )


@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("function", {**MAPS, "pair": SCALARS["pair"], "linear": SCALARS["linear"]})
@pytest.mark.parametrize("name", ["vjp", "jvp"])
@pytest.mark.one_in(5)
def test_products_with_the_jacobian_agree(name: str, function: str, kind: str) -> None:
    case = {**SCALARS, **MAPS}[function]
    for create_graph, strict, requires_grad in FLAGS:
        inputs = _inputs(case, requires_grad)
        like = inputs
        if name == "vjp" and function != "no_tensor":
            like = case.func(*inputs) if isinstance(inputs, tuple) else case.func(inputs)
        arguments = (case.func, inputs, _vector(kind, like), create_graph, strict)
        _assert_agree(
            lambda arguments=arguments: getattr(functional, name)(*arguments),
            lambda arguments=arguments: getattr(torch.autograd.functional, name)(*arguments),
        )


@pytest.mark.parametrize("function", MAPS)
@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.one_in(5)
def test_jacobians_agree(function: str, vectorize: bool) -> None:
    case = MAPS[function]
    for create_graph, strict, requires_grad in FLAGS:
        if strict and vectorize:
            continue  # Both refuse, in words of their own.
        arguments = (case.func, _inputs(case, requires_grad), create_graph, strict, vectorize)
        _assert_agree(
            lambda arguments=arguments: functional.jacobian(*arguments),
            lambda arguments=arguments: torch.autograd.functional.jacobian(*arguments),
        )


# PyTorch refuses the matrix of an empty input, and of a complex one in other words.
@pytest.mark.parametrize("function", [name for name in SCALARS if name not in ("empty", "complex")])
@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.one_in(5)
def test_hessians_agree(function: str, vectorize: bool) -> None:
    case = SCALARS[function]
    for create_graph, strict, requires_grad in FLAGS:
        if strict and vectorize:
            continue  # Both refuse, in words of their own.
        arguments = (case.func, _inputs(case, requires_grad), create_graph, strict, vectorize)
        _assert_agree(
            lambda arguments=arguments: functional.hessian(*arguments),
            lambda arguments=arguments: torch.autograd.functional.hessian(*arguments),
        )


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_matrices_of_empty_tensors_are_empty(vectorize: bool, strategy: str) -> None:
    """PyTorch raises here, deep inside."""
    x = torch.rand(0, 2, dtype=DOUBLE)
    vectorize = vectorize or strategy == "forward-mode"
    hessian = functional.hessian(lambda x: (x**3).sum(), x, False, False, vectorize, strategy)
    assert hessian.shape == (0, 2, 0, 2)
    assert functional.jacobian(torch.exp, x, False, False, vectorize, strategy).shape == (0, 2, 0, 2)
    to_two = functional.jacobian(lambda x: x.sum(dim=0), x, False, False, vectorize, strategy)
    assert to_two.shape == (2, 0, 2)
    from_two = functional.jacobian(lambda x: x[:0], torch.rand(2, dtype=DOUBLE), False, False, vectorize, strategy)
    assert from_two.shape == (0, 2)


@pytest.mark.parametrize("function", ["elementwise", "rows", "pair_to_pair", "unrelated", "scalar", "mixed_dtypes"])
def test_forward_mode_jacobians_agree(function: str) -> None:
    case = MAPS[function]
    inputs = _inputs(case, False)
    options = {"vectorize": True, "strategy": "forward-mode"}
    _assert_agree(
        lambda: functional.jacobian(case.func, inputs, **options),
        lambda: torch.autograd.functional.jacobian(case.func, inputs, **options),
    )
