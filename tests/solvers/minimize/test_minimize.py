"""Minima against closed forms and published values, and what a search says of itself against PyTorch's gradients."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch

import hesse
from hesse._operators.point import PointOperator

DOUBLE = torch.float64


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def rosenbrock_residuals(x):
    return torch.cat([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]])


def valley_residuals(x):
    """Of pairs that do not touch each other, so that there is one minimum."""
    return torch.cat([10 * (x[1::2] - x[::2] ** 2), 1 - x[::2]])


def valleys(x):
    return 0.5 * valley_residuals(x).square().sum()


def gradient(func, x):
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(func(x), x)[0]


@dataclasses.dataclass
class Parts:
    a: torch.Tensor
    b: torch.Tensor


torch.utils._pytree.register_dataclass(Parts)


def test_the_minimum_of_a_quadratic_is_the_solution_of_its_linear_system():
    draw = torch.Generator().manual_seed(0)
    root, b = torch.randn(30, 30, generator=draw, dtype=DOUBLE), torch.randn(30, generator=draw, dtype=DOUBLE)
    A = root @ root.mT + torch.eye(30, dtype=DOUBLE)
    found = hesse.minimize(lambda x: 0.5 * x @ A @ x - b @ x, torch.zeros(30, dtype=DOUBLE), tol=1e-10)
    assert found.converged
    torch.testing.assert_close(found.x, torch.linalg.solve(A, b), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("method", ["newton", "levenberg-marquardt"])
@pytest.mark.parametrize("n", [2, 10, 200])
@pytest.mark.one_in(5)
def test_many_curved_valleys_are_followed_to_their_ends(method, n):
    func = valleys if method == "newton" else valley_residuals
    x0 = torch.tensor([-1.2, 1.0], dtype=DOUBLE).repeat(n // 2)
    found = hesse.minimize(func, x0, method=method, tol=1e-9)
    assert found.converged
    torch.testing.assert_close(found.x, torch.ones(n, dtype=DOUBLE), rtol=0, atol=1e-5)


def test_what_it_says_of_its_answer_is_so():
    x0 = torch.linspace(-1, 2, 4, dtype=DOUBLE)
    for method, func in (("newton", rosenbrock), ("levenberg-marquardt", rosenbrock_residuals)):
        found = hesse.minimize(func, x0, method=method, tol=1e-5)

        def value(x, func=func):
            return 0.5 * func(x).square().sum() if func is rosenbrock_residuals else func(x)

        assert found.method == method
        assert found.fun == pytest.approx(float(value(found.x)), rel=1e-12)
        assert found.grad_norm == pytest.approx(float(gradient(value, found.x).norm()), rel=1e-9)
        assert found.grad_norm <= 1e-5 * float(gradient(value, x0).norm())
        assert found.message == "The norm of the gradient is small enough."


def test_the_gradient_is_small_relative_to_the_first_one_or_absolutely():
    x0 = torch.full((4,), 3.0, dtype=DOUBLE)
    first = float(gradient(rosenbrock, x0).norm())
    loose = hesse.minimize(rosenbrock, x0, tol=1e-2)
    absolute = hesse.minimize(rosenbrock, x0, tol=0.0, atol=1e-2 * first)
    assert 1e-4 * first < loose.grad_norm <= 1e-2 * first
    assert torch.equal(absolute.x, loose.x)
    at_once = hesse.minimize(rosenbrock, x0, atol=2 * first)
    assert (at_once.nit, at_once.nfev, at_once.num_products, at_once.converged) == (0, 1, 0, True)
    assert torch.equal(at_once.x, x0)


@pytest.mark.parametrize(
    ("x0", "minimum"),
    [
        ({"a": torch.zeros(2, 3), "b": torch.tensor(5.0)}, {"a": torch.full((2, 3), 2.0), "b": torch.tensor(-1.0)}),
        (Parts(torch.zeros(3), torch.ones(1)), Parts(torch.full((3,), 2.0), torch.tensor([-1.0]))),
        ([torch.zeros(()), torch.zeros(2, 2)], [torch.tensor(2.0), torch.full((2, 2), -1.0)]),
    ],
    ids=["dict", "dataclass", "list"],
)
def test_the_answer_is_structured_like_the_start(x0, minimum):
    def parts(point):
        if isinstance(point, Parts):
            return point.a, point.b
        return tuple(point.values()) if isinstance(point, dict) else tuple(point)

    def residuals(point):
        a, b = parts(point)
        return {"first": a - 2, "second": (b + 1) * (1 + (a**2).mean())}

    def func(point):
        return sum(0.5 * residual.square().sum() for residual in residuals(point).values())

    for method, f in (("newton", func), ("levenberg-marquardt", residuals)):
        found = hesse.minimize(f, x0, method=method)
        assert found.converged
        assert type(found.x) is type(x0)
        for leaf, wanted in zip(parts(found.x), parts(minimum), strict=True):
            torch.testing.assert_close(leaf, wanted, rtol=1e-4, atol=1e-4)


def test_a_tuple_is_splatted_and_the_start_is_left_as_it_is():
    x, y = torch.nn.Parameter(torch.tensor([3.0, 1.0], dtype=DOUBLE)), torch.tensor(2.0, dtype=DOUBLE)
    before = x.detach().clone(), y.clone()
    found = hesse.minimize(lambda x, y: ((x - y) ** 2).sum() + (y - 1) ** 4, (x, y), tol=1e-12)
    assert isinstance(found.x, tuple)
    torch.testing.assert_close(found.x[0], torch.ones(2, dtype=DOUBLE), rtol=0, atol=1e-3)
    assert not any(leaf.requires_grad for leaf in found.x)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert x.grad is None
    still = hesse.minimize(lambda x: (x**2).sum(), y, atol=100)
    still.x.zero_()
    assert torch.equal(y, before[1])


def test_complex_inputs_have_minima():
    z0 = torch.zeros(3, dtype=torch.complex128)
    wanted = torch.tensor([1 + 2j, -1j, 0.5], dtype=torch.complex128)

    def residuals(z):
        return torch.cat([z - wanted, (z - wanted)[:1] ** 2])

    found = hesse.minimize(lambda z: residuals(z).abs().square().sum(), z0)
    torch.testing.assert_close(found.x, wanted, rtol=0, atol=1e-5)
    found = hesse.minimize(residuals, z0, method="levenberg-marquardt")
    torch.testing.assert_close(found.x, wanted, rtol=0, atol=1e-5)


def test_it_leaves_a_saddle_by_its_negative_curvature():
    def func(p):
        return p[0] ** 2 - p[1] ** 2 + p[1] ** 4 / 2

    found = hesse.minimize(func, torch.tensor([0.5, 1e-6], dtype=DOUBLE), tol=1e-10)
    torch.testing.assert_close(found.x.abs(), torch.tensor([0.0, 1.0], dtype=DOUBLE), rtol=0, atol=1e-6)
    assert found.fun == pytest.approx(-0.5)


def test_a_step_to_where_the_function_has_no_value_is_refused():
    found = hesse.minimize(lambda x: (x - x.log()).sum(), torch.tensor([1e-3, 30.0], dtype=DOUBLE), tol=1e-10)
    torch.testing.assert_close(found.x, torch.ones(2, dtype=DOUBLE), rtol=0, atol=1e-6)
    found = hesse.minimize(
        lambda x: x.log(), torch.tensor([1e-3, 30.0], dtype=DOUBLE), method="levenberg-marquardt", tol=1e-10
    )
    torch.testing.assert_close(found.x, torch.ones(2, dtype=DOUBLE), rtol=0, atol=1e-4)


def test_values_that_hide_every_digit_of_their_differences_do_not_stop_it():
    x0 = torch.tensor([-1.2, 1.0, 0.5, 2.0], dtype=DOUBLE)
    found = hesse.minimize(lambda x: 1e8 + valleys(x), x0, tol=1e-10)
    assert found.converged
    torch.testing.assert_close(found.x, torch.ones(4, dtype=DOUBLE), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_where_rounding_allows_no_more_it_says_so(dtype):
    draw = torch.Generator().manual_seed(0)
    B, c = (torch.randn(*shape, generator=draw, dtype=DOUBLE) for shape in ((20, 10), (20,)))

    def func(x):
        return (B.to(dtype) @ x - c.to(dtype)).square().sum() + (x.exp() - x).sum()

    with pytest.warns(hesse.ConvergenceWarning, match=r"^minimize has made its \d+ products but the norm of the grad"):
        found = hesse.minimize(func, torch.zeros(10, dtype=dtype), tol=1e-30)
    assert not found.converged
    assert found.message == "No step improves on rounding."
    x = found.x.to(DOUBLE)
    off = 2 * B.mT @ (B @ x - c) + x.exp() - 1
    assert float(off.norm()) <= 1000 * torch.finfo(dtype).eps * float((2 * B.mT @ c).norm())


@pytest.mark.parametrize(
    "func",
    [torch.sum, lambda x: (x**3).sum(), lambda x: -x.exp().sum(), lambda x: -(x**4).sum()],
    ids=["linear", "cubic", "exponential", "quartic"],
)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.one_in(5)
def test_a_function_that_is_unbounded_below_is_said_to_be(func, dtype):
    x0 = torch.tensor([1.0, 0.5, -1.5], dtype=dtype)
    with pytest.warns(
        hesse.ConvergenceWarning, match=r": the value fell from .* where its precision ends\. Give a fun"
    ):
        found = hesse.minimize(func, x0)
    assert not found.converged
    assert found.message == "The value falls below the range of its precision: the function is unbounded below."
    assert float(func(found.x)) < 0.5 * torch.finfo(dtype).min
    # Twice as far with each step would take a thousand to the end of float64.
    assert found.nit < 150


@pytest.mark.parametrize(
    ("func", "least"),
    [(lambda x: torch.where(x > 5, torch.inf, -x).sum(), -15.0), (lambda x: -(1 + x**2).sqrt().sum(), -(2.0**511))],
    ids=["wall", "overflow"],
)
@pytest.mark.one_in(2)
def test_a_function_that_falls_up_to_where_it_is_not_finite_is_said_to(func, least):
    with pytest.warns(hesse.ConvergenceWarning, match=r": the value fell from .*, and just beyond, value or gradient"):
        found = hesse.minimize(func, torch.ones(3, dtype=DOUBLE))
    assert not found.converged
    assert found.fun < 0.99 * least
    assert found.message == "The function is not finite just beyond the point that was reached."


@pytest.mark.parametrize("func", [lambda x: x.log().sum(), lambda x: -(1 / x).sum()], ids=["logarithm", "pole"])
@pytest.mark.one_in(2)
def test_what_was_reached_is_kept_where_products_are_not_finite(func):
    x0 = torch.tensor([1.0, 2.0, 3.0])
    with pytest.warns(hesse.ConvergenceWarning, match=r": the value fell from .* products leave the range of its"):
        found = hesse.minimize(func, x0)
    assert not found.converged
    assert found.message == "Products are not finite at the point that was reached."
    assert found.fun == float(func(found.x)) < float(func(x0))
    with pytest.raises(hesse.NonFiniteProductError):
        hesse.minimize(func, found.x)


def test_a_constant_that_hides_the_digits_is_named_with_what_it_hides():
    with pytest.warns(
        hesse.ConvergenceWarning, match=r"values near 1e\+16 are known to 2e\+01 only, .* take a constant"
    ):
        found = hesse.minimize(lambda x: 1e16 + rosenbrock(x), torch.zeros(5, dtype=DOUBLE))
    assert not found.converged


def test_a_scalar_in_the_place_of_residuals_is_refused():
    x0 = torch.ones(3, dtype=DOUBLE)
    with pytest.raises(
        TypeError, match=r"should return residuals but returned a scalar\. Leave method out to minimize"
    ):
        hesse.minimize(lambda x: (x**2).sum(), x0, method="levenberg-marquardt")
    assert hesse.minimize(lambda x: (x - 2).sum()[None], x0, method="levenberg-marquardt").converged


@pytest.mark.parametrize("exponent", [-100, -30, 40, 90])
@pytest.mark.one_in(4)
def test_the_digits_do_not_depend_on_the_scale_of_the_function(exponent):
    x0 = torch.linspace(-1, 2, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hesse.ConvergenceWarning)
        plain = hesse.minimize(rosenbrock, x0, tol=1e-4)
        scaled = hesse.minimize(lambda x: rosenbrock(x) * 2.0**exponent, x0, tol=1e-4)
    assert plain.converged
    assert scaled.converged
    torch.testing.assert_close(scaled.x, plain.x, rtol=1e-3, atol=1e-3)
    assert scaled.num_products == plain.num_products


def test_products_and_evaluations_are_counted(monkeypatch):
    made, evaluated = [], []
    multiply = PointOperator._matvec
    monkeypatch.setattr(PointOperator, "_matvec", lambda *arguments: (made.append(1), multiply(*arguments))[1])

    def counted(func):
        return lambda x: (evaluated.append(1), func(x))[1]

    x0 = torch.tensor([-1.2, 1.0, 0.3, 2.0], dtype=DOUBLE)
    for method, func in (("newton", rosenbrock), ("levenberg-marquardt", rosenbrock_residuals)):
        made.clear()
        evaluated.clear()
        found = hesse.minimize(counted(func), x0, method=method)
        assert found.num_products == len(made)
        assert found.nfev == len(evaluated)
        assert found.nit < found.nfev


@pytest.mark.parametrize("method", ["newton", "levenberg-marquardt"])
def test_it_ends_where_products_run_out_or_the_callback_says_so(method):
    func = rosenbrock if method == "newton" else rosenbrock_residuals
    x0 = torch.tensor([-1.2, 1.0] * 10, dtype=DOUBLE)
    first = float(rosenbrock(x0))
    seen = []
    for most in (1, 2, 3, 10):
        with pytest.warns(hesse.ConvergenceWarning, match="products ran out. Raise max_products, tol or atol"):
            found = hesse.minimize(func, x0, method=method, max_products=most)
        assert found.num_products <= most + (method == "levenberg-marquardt")
        assert found.message == "All products that may be made were made."
        assert float(rosenbrock(found.x)) <= first
    stopped = hesse.minimize(func, x0, method=method, callback=lambda p: (seen.append(p), p.num_products >= 7)[1])
    assert stopped.message == "The callback stopped the search."
    assert not stopped.converged
    assert seen[-1].num_products >= 7 > seen[-2].num_products
    assert seen[0].question == "minimize"
    assert "gradient" in seen[0].status


@pytest.mark.inductor
@pytest.mark.parametrize("method", ["newton", "levenberg-marquardt"])
def test_one_compiled_program_serves_all_points(method, monkeypatch):
    operators = []
    kind = hesse.Hessian if method == "newton" else hesse.Jacobian
    move = kind._move
    monkeypatch.setattr(kind, "_move", lambda H, *where: (move(H, *where), operators.append(H))[0])
    x0 = torch.zeros(10, dtype=DOUBLE)
    func = rosenbrock if method == "newton" else rosenbrock_residuals
    found = hesse.minimize(func, x0, method=method, engine="compiled")
    torch.testing.assert_close(found.x, torch.ones(10, dtype=DOUBLE), rtol=0, atol=1e-3)
    assert len(operators) == found.nfev
    explanation = operators[-1].explain()
    assert (explanation.engine, explanation.programs) == ("compiled", 1)


def test_a_start_without_a_value_or_gradient_is_refused():
    with pytest.raises(ValueError, match=r"^func given to minimize should be finite at x0 but its value is nan"):
        hesse.minimize(lambda x: x.log().sum(), torch.tensor([-1.0]))
    with pytest.raises(ValueError, match="with a gradient of norm inf"):
        hesse.minimize(lambda x: x.sqrt().sum(), torch.zeros(2))
    with pytest.raises(ValueError, match="should be finite at x0"):
        hesse.minimize(lambda x: x.log(), torch.tensor([0.0]), method="levenberg-marquardt")


def test_an_unknown_method_is_told():
    with pytest.raises(ValueError, match=r"^method given to minimize should be one of 'newton', 'levenberg-marquardt'"):
        hesse.minimize(rosenbrock, torch.zeros(2), method="bfgs")


def test_errors_of_the_function_pass_through():
    def func(x):
        if float(x.detach().sum()) != 0:
            raise KeyError("not here")
        return ((x - 1) ** 2).sum()

    with pytest.raises(KeyError, match="not here"):
        hesse.minimize(func, torch.zeros(3))


def test_it_prints_as_labelled_lines():
    found = hesse.minimize(rosenbrock, torch.zeros(2, dtype=DOUBLE))
    lines = dict(line.split(None, 1) for line in str(found).splitlines())
    assert list(lines) == ["value", "gradient", "steps", "products", "converged", "message"]
    assert lines["products"] == str(found.num_products)
    assert lines["steps"] == f"{found.nit} by newton, {found.nfev} evaluations"


def test_a_start_of_another_kind_is_told_by_the_name_of_what_was_called():
    with pytest.raises(TypeError, match="The inputs given to minimize must be"):
        hesse.minimize(lambda x: (x**2).sum(), [1, 2])
    with pytest.raises(TypeError, match="func given to minimize should be callable"):
        hesse.minimize(None, torch.ones(2))
    with pytest.raises(TypeError, match="The inputs given to scipy_functions must be"):
        hesse.scipy_functions(lambda x: (x**2).sum(), "a")
