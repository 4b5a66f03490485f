"""Programs draw, change and share nothing that they should not; and a wrong one is refused."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hesse
from hesse._linearize.options import Verify
from hesse._linearize.program import backends
from hesse._linearize.program.backends import EAGER
from hesse._linearize.program.graph import Graph
from hesse._linearize.program.runs import Run
from tests.functional.test_compiled_functions import HAS_COMPILER

from . import programs

ONES = torch.ones(100, dtype=torch.float64)


def dropped(x: Tensor) -> Tensor:
    return (torch.dropout(x, 0.5, True) ** 2).sum()


@pytest.mark.parametrize("verify", [True, False])
def test_a_function_that_draws_has_one_hessian_and_draws_once_a_point(verify: bool) -> None:
    torch.manual_seed(3)
    H = programs.hessian(dropped, ONES, verify=verify)
    moved = H.at(ONES)
    after = torch.get_rng_state()
    first, second = H @ ONES, moved @ ONES
    assert torch.equal(first, H @ ONES)
    assert torch.equal(second, moved @ ONES)
    assert torch.equal(torch.get_rng_state(), after)
    # The same masks, in the same order, as two evaluations draw.
    torch.manual_seed(3)
    assert torch.equal(first, hesse.Hessian(dropped, ONES) @ ONES)
    assert torch.equal(second, hesse.Hessian(dropped, ONES) @ ONES)
    assert torch.equal(torch.get_rng_state(), after)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.one_in(2)
def test_buffers_are_changed_as_one_evaluation_a_point_changes_them(verify: bool) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).double()

    features = torch.randn(6, 3, dtype=torch.float64)

    def loss_of(net: nn.Module) -> Any:
        return lambda p: (torch.func.functional_call(net, p, (features,)) ** 2).mean()

    ours, theirs = network(), network()
    H = programs.hessian(loss_of(ours), dict(ours.named_parameters()), verify=verify)
    H = H.at(dict(ours.named_parameters()))
    for _ in range(2):
        expected = hesse.Hessian(loss_of(theirs), dict(theirs.named_parameters()))
    vector = torch.randn(H.shape[0], dtype=torch.float64)
    torch.testing.assert_close(H @ vector, expected @ vector)
    for buffer, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(buffer, other)
    assert int(ours[1].num_batches_tracked) == 2  # type: ignore[index,arg-type]  # a Sequential


@pytest.mark.parametrize("verify", [True, False])
def test_what_a_changed_buffer_was_is_kept_for_the_products(verify: bool) -> None:
    counter = torch.ones(3, dtype=torch.float64)

    def func(x: Tensor) -> Tensor:
        value = (counter.clone() * x**3).sum()
        counter.add_(1)
        return value

    x = torch.ones(3, dtype=torch.float64)
    H = programs.hessian(func, x, verify=verify)
    assert torch.equal(H @ x, 6 * x)
    H = H.at(x)
    assert torch.equal(H @ x, 12 * x)
    assert torch.equal(counter, 3 * x)


@pytest.mark.parametrize("verify", [True, False])
def test_a_buffer_that_is_only_written_is_written_at_each_point(verify: bool) -> None:
    unused, last = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)

    def func(x: Tensor) -> Tensor:
        with torch.no_grad():
            last.copy_(x)
        return (x**3).sum() + 0 * len(unused)

    x = torch.ones(3, dtype=torch.float64)
    H = programs.hessian(func, x, verify=verify)
    assert torch.equal(last, x)
    H = H.at(2 * x)
    assert torch.equal(last, 2 * x)
    assert torch.equal(H @ x, 12 * x)
    assert torch.equal(unused, 0 * x)


def test_results_share_no_memory_with_what_is_kept() -> None:
    H = programs.hessian(lambda x: (x**3).sum() + x.sum(), ONES)
    before = H @ ONES
    H.gradient.zero_()
    (H @ ONES).zero_()
    assert torch.equal(H @ ONES, before)
    identity = programs.hessian(lambda x: 0.5 * (x**2).sum(), ONES)
    vector = ONES.clone()
    (identity @ vector).zero_()
    assert torch.equal(vector, ONES)


def test_vectors_of_any_dtype_stride_and_kind_are_taken() -> None:
    H = programs.hessian(lambda z: (z.abs() ** 4).sum(), torch.tensor([1.0 + 2.0j, 0.5 - 1.0j]))
    T = hesse.Hessian(lambda z: (z.abs() ** 4).sum(), torch.tensor([1.0 + 2.0j, 0.5 - 1.0j]))
    vector = torch.tensor([[1.0 + 1.0j, 5.0], [2.0 - 1.0j, 5.0]])
    for v in (vector[:, 0], vector[:, 0].conj(), vector.to(torch.complex128)[:, 0]):
        torch.testing.assert_close(H @ v, T @ v)
    imaginary = programs.hessian(lambda x: (x**3).sum(), torch.ones(2))
    negated = vector[:, 0].conj().imag
    assert negated.is_neg()
    torch.testing.assert_close(imaginary @ negated, 6 * negated)


def test_a_captured_conjugate_is_a_number_like_any_other() -> None:
    weight = torch.tensor([1.0 + 2.0j, 0.5 - 1.0j]).conj()
    x = torch.tensor([1.0, 2.0])
    H = programs.hessian(lambda x: ((weight * x**2).abs() ** 2).sum(), x)
    torch.testing.assert_close(H @ x, 12 * weight.abs() ** 2 * x**3)


def test_surroundings_of_a_product_do_not_matter() -> None:
    weight = torch.randn(3, 3)
    H = programs.hessian(lambda x: ((weight @ x) ** 4).sum(), torch.ones(3))
    vector = torch.randn(3)
    expected = H @ vector
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(H @ vector, expected)
    with torch.inference_mode():
        product = H @ vector
    assert torch.equal(product, expected)
    assert not product.is_inference()
    assert not (H @ vector.requires_grad_()).requires_grad


def test_an_operator_made_in_inference_mode_is_right() -> None:
    with torch.inference_mode():
        weight = torch.full((3,), 2.0)
        H = programs.hessian(lambda x: (weight * x**3).sum(), torch.ones(3))
        assert torch.equal(H @ torch.ones(3), torch.full((3,), 12.0))


def test_a_closed_operator_is_refused_and_its_program_goes_on() -> None:
    H = programs.hessian(lambda x: (x**3).sum(), ONES)
    with H:
        pass
    with pytest.raises(hesse.ClosedError):
        H @ ONES
    assert torch.equal(H.at(ONES) @ ONES, 6 * ONES)


def test_products_inside_a_transform_are_refused() -> None:
    H = programs.hessian(lambda x: (x**3).sum(), ONES)
    with pytest.raises(RuntimeError, match=r"cannot run inside a torch\.func transform"):
        torch.func.vmap(lambda v: H @ v)(torch.eye(100).double())


def test_auxiliary_output_comes_from_the_evaluation() -> None:
    H = programs.hessian(lambda x: ((x**3).sum(), {"twice": 2 * x, "name": "cubic"}), ONES, has_aux=True, verify=False)
    moved = H.at(3 * ONES)
    assert torch.equal(moved.aux["twice"], 6 * ONES)
    assert moved.aux["name"] == "cubic"


@pytest.mark.parametrize(("after", "what"), [(0, "value or gradient"), (1, "product with a random vector")])
def test_a_program_that_differs_from_the_tape_is_refused(after: int, what: str) -> None:
    def func(x: Tensor) -> Tensor:
        return (x**3).sum()

    with pytest.raises(hesse.CaptureError, match=f"the {what} differs from the tape's by"):
        programs.hessian(func, ONES, backend=programs.wrong(after))


def test_a_program_that_is_right_at_one_point_only_is_refused_at_the_next() -> None:
    hidden: Iterator[float] = iter([1.0, 1.0, 2.0])

    def func(x: Tensor) -> Tensor:
        return next(hidden) * (x**3).sum()

    H = programs.hessian(func, ONES)
    with pytest.raises(hesse.CaptureError, match="differs from the tape's"):
        H.at(ONES)


def test_options_that_a_program_has_not_are_refused() -> None:
    with pytest.raises(ValueError, match='create_graph=True needs engine="tape"'):
        hesse.Hessian(dropped, ONES, engine="compiled", create_graph=True)
    with pytest.raises(ValueError, match='engine should be "tape", "compiled" or "auto" but is \'fast\''):
        hesse.Hessian(dropped, ONES, engine="fast")  # type: ignore[arg-type]  # not an engine


@pytest.mark.skipif(not HAS_COMPILER, reason="programs are compiled by a C++ compiler")
def test_a_loop_that_uses_each_value_twice_is_compiled_in_reasonable_time() -> None:
    """At Inductor's own bound on the length of an expression, twelve steps take ten minutes, and the test's time."""

    def func(x: Tensor) -> Tensor:
        for _ in range(12):
            x = x + 0.2 * torch.sin(x)
        return (x**2).sum()

    x = torch.linspace(-1, 1, 5, dtype=torch.float64)
    H = hesse.Hessian(func, x, engine="compiled")
    dense = torch.autograd.functional.hessian(func, x)
    torch.testing.assert_close(H @ torch.ones(5, dtype=torch.float64), dense.sum(1))


@pytest.mark.parametrize(("verify", "compared"), [(True, [1, 2, 4, 8]), ("always", list(range(1, 11))), (False, [1])])
def test_a_program_is_compared_with_the_tape_at_the_points_that_were_asked_for(
    verify: Verify, compared: list[int]
) -> None:
    points: collections.deque[int] = collections.deque()

    def func(x: Tensor) -> Tensor:
        if type(x) is Tensor:
            points.append(round(float(x.detach()[0])))
        return (x**3).sum()

    H = programs.hessian(func, ONES, verify=verify)
    for number in range(2, 11):
        # After two products the next point has two halves.
        H @ ONES, H @ ONES
        H = H.at(number * ONES)
        assert torch.equal(H @ ONES, 6 * number * ONES)
        assert torch.equal(H.gradient, 3 * number**2 * ONES)
    assert list(points) == compared


@pytest.mark.parametrize(("wrong_from", "caught"), [(3, 4), (4, 4), (5, 8)])
def test_a_program_that_goes_wrong_is_refused_at_the_next_compared_point_by_its_number(
    wrong_from: int, caught: int
) -> None:
    # hesse does not look into a deque.
    hidden = collections.deque([1.0])
    H = programs.hessian(lambda x: hidden[0] * (x**3).sum(), ONES)
    for number in range(2, caught):
        hidden[0] = 1.0 if number < wrong_from else 2.0
        H @ ONES, H @ ONES
        H = H.at(ONES)
    H @ ONES, H @ ONES
    hidden[0] = 2.0
    with pytest.raises(hesse.CaptureError, match=rf"differs from the tape's .* at point {caught} of the program"):
        H.at(ONES)


def test_every_graph_that_is_compiled_names_its_nodes_apart() -> None:
    def lint(graph: Graph) -> Run:
        graph.graph.lint()
        return EAGER.compile(graph)

    def func(x: Tensor) -> Tensor:
        return 0.5 * torch.cat([10 * (x[1::2] - x[::2] ** 2), 1 - x[::2]]).square().sum()

    x, v = torch.randn(20, dtype=torch.float64), torch.ones(20, dtype=torch.float64)
    # The partition of Inductor's halves keeps what the function concatenates, and the product concatenates anew.
    backend = backends.INDUCTOR._replace(compile=lint)
    found = programs.hessian(func, x, backend=backend) @ v
    torch.testing.assert_close(found, torch.func.hessian(func)(x) @ v)


def test_threads_may_capture_at_once() -> None:
    """PyTorch's tracer replaces functions that all threads call, and cannot be entered twice."""
    x = torch.linspace(0.1, 1.0, 5, dtype=torch.float64)

    def product(power: int) -> Tensor:
        return hesse.Hessian(lambda x: (x**power).sum(), x, engine="compiled") @ x

    with programs.running(EAGER), concurrent.futures.ThreadPoolExecutor(4) as pool:
        for power, found in zip(range(3, 9), pool.map(product, range(3, 9)), strict=True):
            torch.testing.assert_close(found, power * (power - 1) * x ** (power - 1))
