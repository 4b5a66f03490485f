"""A point that is asked for one product runs one program; a second product, or the gradient, runs the two halves."""

from __future__ import annotations

import collections
import contextlib
import gc
import pathlib
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hesse
from benchmarks import calls
from hesse._linearize.program.graph import Graph, results_of
from tests.functional.test_compiled_functions import HAS_COMPILER

from . import programs

X = torch.linspace(0.5, 1.5, 6, dtype=torch.float64)
V = torch.linspace(-1.0, 2.0, 6, dtype=torch.float64)


class Runs:
    """A backend that notes how many results each graph that runs has, and multiplies them by ``factor``."""

    def __init__(self) -> None:
        self.results: collections.deque[int] = collections.deque()
        self.factor = 1.0
        self.backend = programs.compiling(self._compile)

    def _compile(self, graph: Graph) -> Callable[[list[Tensor]], Any]:
        def run(given: list[Tensor]) -> list[Tensor]:
            self.results.append(len(results_of(graph)))
            return [result * self.factor for result in graph(*given)]

        return run


close = torch.testing.assert_close


def evaluations(calls: collections.deque[bool]) -> int:
    """How often a function ran on numbers since the last time this was asked; stand-ins have none."""
    count = sum(calls)
    calls.clear()
    return count


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_fifty_points_run_one_program_and_the_function_at_compared_points_only(dtype: torch.dtype) -> None:
    calls: collections.deque[bool] = collections.deque()
    weight = torch.linspace(1.0, 2.0, 6).to(dtype)

    def func(x: Tensor) -> Tensor:
        calls.append(type(x) is Tensor)
        return (weight * x**4).sum()

    x, v = X.to(dtype), V.to(dtype)
    H = programs.hessian(func, x)
    assert evaluations(calls) == 1
    compared = []
    for number in range(1, 51):
        x = x * 0.98
        weight.add_(0.01)
        H = H.at(x)
        product = H @ v
        if evaluations(calls):
            compared.append(number)
        expected = 12 * weight.double() * x.double() ** 2 * v.double()
        assert float((product.double() - expected).norm() / expected.norm()) < 8 * torch.finfo(dtype).eps
        assert H.explain().lone
    assert compared == [1, 2, 4, 8, 16, 32]
    assert H.explain().programs == 1
    assert "product:      one program, nothing kept" in str(H.explain())
    close(H.gradient, 4 * weight * x**3)


@pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")
def test_a_compiled_lone_product_is_right_at_points_that_move() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(4, 6).double(), torch.tensor([0, 2, 1])

    def func(inputs: dict[str, Tensor]) -> Tensor:
        return (first @ inputs["a"]).tanh()[second].square().sum() + (inputs["a"] * inputs["b"].exp()).sum()

    inputs = {"a": X, "b": V}
    H = hesse.Hessian(func, inputs, engine="compiled")
    for _ in range(5):
        inputs = {name: 0.9 * leaf for name, leaf in inputs.items()}
        H = H.at(inputs)
        vector = {"a": V, "b": X}
        expected = torch.autograd.functional.vhp(
            lambda a, b: func({"a": a, "b": b}), (inputs["a"], inputs["b"]), (V, X)
        )[1]
        product = H @ vector
        close([product["a"], product["b"]], list(expected))
        assert H.explain().lone


def test_structured_inputs_flat_vectors_and_blocks_run_the_one_program() -> None:
    runs = Runs()

    def func(a: Tensor, rest: dict[str, Tensor]) -> Tensor:
        return (a**2 * rest["b"] ** 3).sum() * rest["c"].sum()

    inputs = X, {"b": X + 1, "c": V[:2]}
    H = programs.hessian(func, inputs, backend=runs.backend)
    dense = torch.autograd.functional.hessian(lambda a, b, c: func(a, {"b": b, "c": c}), (X, X + 1, V[:2]))
    matrix = torch.cat([torch.cat(list(row), dim=1) for row in dense])
    flat = torch.linspace(0.0, 1.0, 14, dtype=torch.float64)
    runs.results.clear()
    for number in range(4):
        close(H.at(inputs) @ flat, matrix @ flat)
        assert runs.results.pop() == 3, number
        close(H.at(inputs).block(0, (1, "b")) @ V, dense[0][1] @ V)
        assert runs.results.pop() == 3, number


def test_python_values_are_read_anew_and_a_point_keeps_those_of_its_time() -> None:
    scale = 2.0
    H = programs.hessian(lambda x: scale * (x**3).sum(), X)
    for number in range(6):
        scale = 2.0 + number % 2
        H = H.at(X)
        product = 6 * scale * X * V
        scale = 7.0
        close(H @ V, product)
    assert H.explain().programs == 2


def test_value_gradient_and_auxiliary_output_are_those_of_the_point() -> None:
    runs = Runs()
    H = programs.hessian(
        lambda x: ((x**3).sum(), {"twice": 2 * x, "name": "cubic"}), X, has_aux=True, backend=runs.backend
    )
    for number in range(2, 8):
        H = H.at(number * X)
        close(H @ V, 6 * number * X * V)
        close(H.value, (number * X).pow(3).sum())
        close(H.gradient, 3 * number**2 * X**2)
        assert torch.equal(H.aux["twice"], 2 * number * X)
        assert H.aux["name"] == "cubic"
        close(H @ V, 6 * number * X * V)


def test_the_products_asked_for_at_a_point_decide_about_the_next() -> None:
    H = programs.hessian(lambda x: (x**3).sum(), X)
    found = []
    for asked in (1, 1, 2, 1, 0, 3, 1):
        H = H.at(X)
        found.append(H.explain().lone)
        for _ in range(asked):
            close(H @ V, 6 * X * V)
        # A second product has made the two halves.
        assert H.explain().lone == (found[-1] and asked < 2)
    assert found == [True, True, True, False, True, True, False]
    H = H.at(X)
    assert H.explain().lone
    # A gradient and a product want the halves at the next point.
    close(H.gradient, 3 * X**2)
    close(H @ V, 6 * X * V)
    assert not H.at(X).explain().lone


def test_one_expected_product_is_one_program_from_the_first_point_on() -> None:
    runs = Runs()
    H = programs.hessian(lambda x: (x**3).sum(), X, expect=1, backend=runs.backend)
    close(H @ V, 6 * X * V)
    assert set(runs.results) == {1}
    assert (H.explain().lone, H.explain().bytes_kept) == (True, 0)


@pytest.mark.parametrize("ask", [hesse.eigsh, lambda H, **how: hesse.solve(H, V, **how)])
def test_a_question_runs_two_halves_from_its_first_product_on(ask: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    how: dict[str, Any] = {"k": 1, "rng": 0} if ask is hesse.eigsh else {}
    runs = Runs()
    H = programs.hessian(lambda x: (x**4).sum(), X, backend=runs.backend).at(X)
    assert H.explain().lone
    runs.results.clear()
    answer = ask(H, **how, checkpoint=tmp_path / "state")
    # Gradient and value, and then products alone.
    assert max(runs.results) > 1
    assert not H.explain().lone
    # A new operator, which begins with two halves, goes on from the checkpoint with the same digits.
    again = ask(programs.hessian(lambda x: (x**4).sum(), X), **how, checkpoint=tmp_path / "state")
    for name in ("eigenvalues", "x"):
        if hasattr(answer, name):
            assert torch.equal(torch.as_tensor(getattr(answer, name)), torch.as_tensor(getattr(again, name)))


def test_a_decision_that_is_given_back_is_one_program_at_all_points() -> None:
    func, runs = (lambda x: (x**3).sin().sum()), Runs()
    H = programs.hessian(func, X)
    H = H.at(X)
    product = H @ V
    choice = pickle.loads(pickle.dumps(H.explain().choice))
    assert choice == hesse.Choice("compiled", lone=True)
    fresh = programs.hessian(func, X, engine=choice, backend=runs.backend)
    assert torch.equal(fresh @ V, product)
    assert set(runs.results) == {1}
    assert torch.equal(fresh @ V, product)
    moved = fresh.at(X)
    assert moved.explain().lone
    assert torch.equal(moved @ V, product)


def test_a_lone_choice_needs_programs() -> None:
    with pytest.raises(ValueError, match=r'lone=True needs engine "compiled" but got "tape"'):
        hesse.Choice(lone=True)


def test_products_that_are_differentiated_stay_with_the_tape() -> None:
    x = X.clone().requires_grad_()
    H = hesse.Hessian(lambda x: (x**4).sum(), x, create_graph=True)
    for _ in range(3):
        H = H.at(x)
        (third,) = torch.autograd.grad((H @ V).sum(), x)
        close(third, 24 * X * V)
        assert not H.explain().lone


@pytest.mark.parametrize(("wrong_from", "caught"), [(1, 1), (2, 2), (3, 4), (5, 8)])
def test_a_wrong_lone_product_is_caught_at_the_next_compared_point_by_its_number(wrong_from: int, caught: int) -> None:
    runs = Runs()
    H = programs.hessian(lambda x: (x**3).sum(), X, backend=runs.backend)
    for number in range(1, caught):
        runs.factor = 1.0 if number < wrong_from else 1.01
        H = H.at(X)
    runs.factor = 1.01
    with pytest.raises(hesse.CaptureError, match=rf"product with a random vector differs .* at point {caught} of the"):
        H.at(X)


@pytest.mark.parametrize("draws", [True, False])
def test_what_an_evaluation_draws_or_changes_needs_the_evaluation(draws: bool) -> None:
    layer: nn.Module = nn.Dropout(0.5) if draws else nn.BatchNorm1d(1, affine=False).double()
    H = programs.hessian(lambda x: (layer(x[:, None]) ** 3).sum(), X)
    for number in range(1, 4):
        H = H.at(X + number)
        assert not H.explain().lone
        H @ V
    if not draws:
        assert int(layer.num_batches_tracked) == 4


@contextlib.contextmanager
def stale() -> Iterator[None]:
    with pytest.raises(hesse.StalePointError):
        yield


def test_nothing_is_computed_of_a_point_that_has_changed() -> None:
    x, weight = X.clone(), torch.ones(6, dtype=torch.float64)
    H = programs.hessian(lambda x: (weight * x**3).sum(), x)
    for _ in range(3):
        H = H.at(x)
        H @ V
    H = H.at(x)
    # Compared with the tape, its value is known.
    x.mul_(2)
    with stale():
        H @ V
    close(H.gradient, 3 * X**2)
    H = H.at(x)
    weight.mul_(3)
    for ask in (lambda: H @ V, lambda: H.gradient, lambda: H.value, lambda: H.aux):
        with stale():
            ask()
    H = H.at(x)
    H.close()
    with pytest.raises(hesse.ClosedError):
        H @ V


def test_new_halves_are_not_compared_with_a_function_that_has_changed_since() -> None:
    scale = 1.0
    H = programs.hessian(lambda x: scale * (x**3).sum(), X, engine=hesse.Choice("compiled", lone=True))
    for _ in range(2):
        H = H.at(X)
    H = H.at(X)
    scale = 2.0
    close(H @ V, 6 * X * V)
    with pytest.raises(hesse.StalePointError, match="What the function reads has changed since this Hessian was made"):
        H @ V
    scale = 1.0
    close(H @ V, 6 * X * V)


def test_a_point_that_moves_makes_few_calls() -> None:
    """Counts, which no clock disturbs; a model costs a call or two for each of its modules and tensors."""
    net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))

    def func(x: Tensor) -> Tensor:
        return net(x.float()).sum().double() + (x**4).sum()

    def bare(x: Tensor) -> Tensor:
        return (x**4).sum()

    for function, most in ((bare, 75), (func, 112)):
        H = programs.hessian(function, X, verify=False)
        moved = H.at(X)
        # Compiled here.
        close(moved @ V, torch.autograd.functional.vhp(function, X, V)[1], rtol=1e-5, atol=1e-6)
        assert calls.count(lambda moved=moved: moved.at(X) @ V).calls <= most
        # A point that is left goes at once: nothing that it holds leads back to it.
        left = weakref.ref(moved._point)
        gc.disable()
        try:
            moved = moved.at(X)
            assert left() is None
        finally:
            gc.enable()
