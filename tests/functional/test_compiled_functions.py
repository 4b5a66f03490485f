"""Section 4, row 2: a function made by torch.compile is run eagerly inside a product, and is compiled again after."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import hesse
from hesse import functional

from .families import PRODUCTS, each_product, pair_sum
from .references import DOUBLE, assert_values, dense_hessian, dense_product

HAS_COMPILER = shutil.which("g++") is not None or shutil.which("clang++") is not None


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _compiled(func: Callable[..., Tensor], backend: str = "aot_eager") -> Callable[..., Tensor]:
    return torch.compile(func, backend=backend, fullgraph=True)


def _counting(func: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], list[int]]:
    """``func`` compiled by a backend that counts how often a compiled graph runs."""
    runs = [0]

    def backend(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable[..., object]:
        def run(*args: object) -> object:
            runs[0] += 1
            return graph(*args)

        return run

    return torch.compile(func, backend=backend, fullgraph=True), runs


@each_product
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("used_before", [False, True], ids=["first_use", "compiled_before"])
def test_product_of_a_compiled_function_is_right(name: str, create_graph: bool, used_before: bool) -> None:
    x, y, v, w = (torch.rand(n, dtype=DOUBLE) for n in (3, 4, 3, 4))
    func = _compiled(pair_sum)
    if used_before:
        func(x.clone().requires_grad_(), y).backward()
    output, product = PRODUCTS[name](func, (x, y), (v, w), create_graph)
    assert_values(output, pair_sum(x, y))
    assert_values(product, dense_product(pair_sum, (x, y), (v, w)), rtol=1e-6, atol=1e-8)


def _cross_entropy(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, torch.tensor([0, 2, 1, 1]))


# Inductor imports what PyTorch itself has deprecated since.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@each_product
@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=pytest.mark.skipif(not HAS_COMPILER, reason="the default backend needs a C++ compiler"),
        ),
    ],
)
def test_product_of_a_compiled_cross_entropy_is_right(name: str, backend: str) -> None:
    """Where PyTorch's own product is zeros, without a word."""
    logits, v = torch.randn(4, 3, dtype=DOUBLE), torch.randn(4, 3, dtype=DOUBLE)
    func = _compiled(_cross_entropy, backend)
    first = func(logits)
    output, product = PRODUCTS[name](func, logits, v)
    assert_values(output, first)
    assert_values(product, dense_product(_cross_entropy, (logits,), (v,))[0], rtol=1e-6, atol=1e-8)


@pytest.mark.private
def test_product_of_a_function_that_calls_a_compiled_module_is_right() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Softplus(), torch.nn.Linear(4, 1)).double()
    compiled = torch.compile(model, backend="aot_eager")
    x, v = torch.rand(2, 3, dtype=DOUBLE), torch.rand(2, 3, dtype=DOUBLE)
    compiled(x)
    product = hesse.vhp(lambda x: compiled(x).pow(2).sum(), x, v)[1]
    expected = dense_product(lambda x: model(x).pow(2).sum(), (x,), (v,))[0]
    assert_values(product, expected, rtol=1e-6, atol=1e-8)


def test_jacobian_hessian_vjp_and_jvp_of_compiled_functions_are_right() -> None:
    x, v = torch.rand(3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)
    exp, cubes = _compiled(torch.exp), _compiled(lambda x: x.prod() ** 2)
    assert_values(functional.vjp(exp, x, v)[1], x.exp() * v)
    assert_values(functional.jvp(exp, x, v)[1], x.exp() * v)
    assert_values(functional.jacobian(exp, x), torch.diag(x.exp()))
    expected = dense_hessian(lambda x: x.prod() ** 2, (x,))
    for vectorize in (False, True):
        assert_values(functional.hessian(cubes, x, vectorize=vectorize), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.private
def test_a_compiled_function_runs_compiled_again_after_a_product_and_after_an_error() -> None:
    func, runs = _counting(lambda x: (x**3).sum())
    x = torch.rand(3)
    func(x)
    assert runs == [1]
    hesse.vhp(func, x, x)
    assert runs == [1]
    func(x)
    assert runs == [2]
    with pytest.raises(RuntimeError, match="single element"):
        hesse.vhp(_compiled(lambda x: x**3), x, x)
    func(x)
    assert runs == [3]


def test_products_nested_in_products_leave_compilation_on_afterwards() -> None:
    func, runs = _counting(lambda x: (x**4).sum())
    x, v, w = (torch.rand(3, dtype=DOUBLE) for _ in range(3))
    product = hesse.vhp(lambda x: hesse.vhp(func, x, v, create_graph=True)[1].sum(), x, w)[1]
    assert_values(product, 24 * v * w)
    assert runs == [0]
    func(x)
    assert runs == [1]


def test_one_thread_takes_products_of_a_compiled_function_while_another_calls_one() -> None:
    product_of, _ = _counting(lambda x: (x**3).sum())
    called, runs = _counting(lambda x: (x.sin() ** 2).sum())
    x, v = torch.rand(3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)
    called(x)
    failures: list[BaseException] = []

    def repeat(check: Callable[[], None]) -> Callable[[], None]:
        def work() -> None:
            try:
                for _ in range(50):
                    check()
            except BaseException as error:
                failures.append(error)

        return work

    threads = [
        threading.Thread(target=repeat(lambda: assert_values(hesse.vhp(product_of, x, v)[1], 6 * x * v))),
        threading.Thread(target=repeat(lambda: assert_values(hesse.hvp(product_of, x, v)[1], 6 * x * v))),
        threading.Thread(target=repeat(lambda: assert_values(called(x), (x.sin() ** 2).sum()))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []
    before = runs[0]
    called(x)
    assert runs == [before + 1]


def test_a_product_in_one_thread_leaves_compilation_on_in_another() -> None:
    """A function compiled with fullgraph=True raises where it is made eager from elsewhere while it runs."""
    func, runs = _counting(lambda x: (x**3).sum())
    x = torch.rand(3, dtype=DOUBLE)
    func(x)
    inside, called = threading.Event(), threading.Event()

    def waits(x: Tensor) -> Tensor:
        inside.set()
        assert called.wait(30)
        return func(x)

    results: list[Tensor] = []
    product = threading.Thread(target=lambda: results.append(hesse.vhp(waits, x, x)[1]))
    product.start()
    assert inside.wait(30)
    func(x)
    called.set()
    product.join(timeout=60)
    assert runs == [2]
    assert_values(results[0], 6 * x**2)


def test_compilation_stays_off_for_a_product_that_outlasts_one_in_another_thread() -> None:
    """Were the stance not counted, the shorter product would switch compilation on under the longer one."""
    func, runs = _counting(lambda x: (x**3).sum())
    x, v = torch.rand(3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)
    func(x)
    longer_is_inside, shorter_is_done = threading.Event(), threading.Event()
    results: list[Tensor] = []

    def waits(x: Tensor) -> Tensor:
        longer_is_inside.set()
        assert shorter_is_done.wait(30)
        return func(x)

    def shorter_func(x: Tensor) -> Tensor:
        assert longer_is_inside.wait(30)
        return func(x)

    longer = threading.Thread(target=lambda: results.append(hesse.vhp(waits, x, v)[1]))
    longer.start()
    results.append(hesse.vhp(shorter_func, x, v)[1])
    shorter_is_done.set()
    longer.join(timeout=60)
    for product in results:
        assert_values(product, 6 * x * v)
    assert len(results) == 2
    assert runs == [1]
