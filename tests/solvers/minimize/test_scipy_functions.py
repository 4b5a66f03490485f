"""SciPy's methods on hesse's functions: each point is evaluated once, whichever of the three is asked for."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import scipy.optimize
import torch

import hesse

DOUBLE = torch.float64
SECOND_ORDER = ["Newton-CG", "trust-ncg", "trust-krylov", "trust-constr"]
FIRST_ORDER = ["BFGS", "L-BFGS-B", "CG", "SLSQP", "TNC"]


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


@pytest.mark.parametrize("start", [(-1.2, 1.0, -1.2, 1.0), (2.0, -2.0, 2.0, 1.5)])
@pytest.mark.parametrize("method", SECOND_ORDER + FIRST_ORDER)
@pytest.mark.one_in(9)
def test_the_function_is_evaluated_once_a_point(method, start):
    evaluated, asked = [], []

    def func(x):
        evaluated.append(tuple(x.tolist()))
        return rosenbrock(x)

    functions = hesse.scipy_functions(func, torch.tensor(start, dtype=DOUBLE))
    fun, jac, hessp, x0 = functions
    note = lambda f: lambda x, *p: (asked.append(tuple((x + 0.0).tolist())), f(x, *p))[1]  # noqa: E731  # a function in one line
    words = {"hessp": note(hessp)} if method in SECOND_ORDER else {}
    found = scipy.optimize.minimize(note(fun), x0, jac=note(jac), method=method, **words)
    np.testing.assert_allclose(found.x, 1, atol=1e-2)
    assert len(evaluated) == len(set(evaluated))
    # The first evaluation is that of the first point, which is asked for as well.
    assert set(evaluated) == set(asked)
    assert len(asked) > len(evaluated)


def test_the_three_are_those_of_pytorch_in_the_structure_of_the_inputs():
    point = {"a": torch.linspace(-1, 1, 6, dtype=DOUBLE).reshape(2, 3), "b": torch.tensor(0.7, dtype=DOUBLE)}

    def func(p):
        return (p["a"].sin() * p["b"]).sum() + p["b"] ** 4 + (p["a"] ** 3).sum()

    def flat(x):
        return func({"a": x[:6].reshape(2, 3), "b": x[6]})

    functions = hesse.scipy_functions(func, point)
    x = np.random.default_rng(0).standard_normal(7)
    p = np.random.default_rng(1).standard_normal(7)
    at = torch.from_numpy(x)
    assert functions.x0.dtype == np.float64
    np.testing.assert_array_equal(functions.x0, torch.cat([point["a"].flatten(), point["b"][None]]).numpy())
    assert functions.fun(x) == pytest.approx(float(flat(at)))
    np.testing.assert_allclose(functions.jac(x), torch.autograd.functional.jacobian(flat, at).numpy())
    np.testing.assert_allclose(functions.hessp(x, p), torch.autograd.functional.hessian(flat, at).numpy() @ p)
    with pytest.raises(ValueError, match=r"The vector given to Hessian should have shape \(7,\)"):
        functions.hessp(x, p[:2])
    back = functions.unflatten(x)
    assert torch.equal(back["a"], at[:6].reshape(2, 3))
    assert torch.equal(back["b"], at[6])


def test_float32_functions_take_and_give_float64():
    functions = hesse.scipy_functions(rosenbrock, torch.zeros(3))
    x = np.array([0.5, 0.25, 0.1])
    assert functions.jac(x).dtype == functions.hessp(x, x).dtype == functions.x0.dtype == np.float64
    assert isinstance(functions.fun(x), float)
    assert functions.unflatten(x).dtype == torch.float32


def test_a_point_that_scipy_changes_in_place_is_another_point():
    functions = hesse.scipy_functions(lambda x: (x**2).sum(), torch.zeros(2, dtype=DOUBLE))
    x = np.array([1.0, 2.0])
    assert functions.fun(x) == 5
    x[0] = 3.0
    assert functions.fun(x) == 13
    np.testing.assert_array_equal(functions.jac(x), [6, 4])


def test_few_points_stay_evaluated(monkeypatch):
    alive, evaluated = weakref.WeakSet(), []
    move = hesse.Hessian._move
    monkeypatch.setattr(hesse.Hessian, "_move", lambda H, *where: (alive.add(H), move(H, *where))[1])

    def func(x):
        evaluated.append(1)
        return x.square().sum()

    functions = hesse.scipy_functions(func, torch.zeros(2, dtype=DOUBLE))
    functions.hessp(np.ones(2), np.ones(2))
    for step in range(20):
        functions.fun(np.full(2, float(step + 2)))
    gc.collect()
    assert 1 < len(alive) <= 4
    # The point of the last product is among them.
    before = len(evaluated)
    np.testing.assert_array_equal(functions.hessp(np.ones(2), np.ones(2)), [2, 2])
    assert len(evaluated) == before


def test_what_is_no_function_is_told():
    with pytest.raises(TypeError, match=r"^func given to scipy_functions should be callable but has type"):
        hesse.scipy_functions(torch.ones(2), torch.ones(2))


def test_a_captured_tensor_that_changes_in_place_is_read_at_points_that_stay_evaluated():
    factor = torch.ones(2, dtype=DOUBLE)
    fun, jac, hessp, x0 = hesse.scipy_functions(lambda x: (factor * x**3).sum(), torch.tensor([1.0, 2.0], dtype=DOUBLE))
    assert (fun(x0), list(jac(x0)), list(hessp(x0, x0))) == (9.0, [3.0, 12.0], [6.0, 24.0])
    factor.mul_(2)
    assert (fun(x0), list(jac(x0)), list(hessp(x0, x0))) == (18.0, [6.0, 24.0], [12.0, 48.0])
