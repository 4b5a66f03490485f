"""Those who minimize: hesse, SciPy, pytorch-minimize and optimistix, asked for the same norm of the gradient."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hesse

# Steps that anybody may take.
MOST_STEPS = 3000
MOST_PRODUCTS = 30_000


@dataclass(frozen=True)
class Task:
    """A function to minimize, in float64.

    Attributes:
        func: a scalar function of a flat vector.
        x0: where to begin, (n,).
        target: the norm of the gradient to reach.
        residuals: r where ``func`` is ½‖r‖².
        jax_func, jax_residuals: the same for JAX.
    """

    title: str
    func: Callable[[Tensor], Tensor]
    x0: Tensor
    target: float
    residuals: Callable[[Tensor], Tensor] | None = None
    jax_func: Callable[[Any], Any] | None = None
    jax_residuals: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Answer:
    """Where somebody ended: products with H, J or Jᵀ, None for who makes none, and evaluated points."""

    x: Tensor
    products: int | None
    evaluations: int


Minimizer = Callable[[Task], Answer]


def by_hesse(method: str) -> Minimizer:
    def minimize(task: Task) -> Answer:
        func = task.func if method == "newton" else task.residuals
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", hesse.ConvergenceWarning)
            found = hesse.minimize(
                func, task.x0, method=method, tol=0.0, atol=task.target, max_products=MOST_PRODUCTS, engine="tape"
            )
        return Answer(found.x, found.num_products, found.nfev)

    return minimize


def by_scipy(task: Task) -> Answer:
    import scipy.optimize

    evaluations = products = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return task.func(x)

    def hessp(x: Any, p: Any) -> Any:
        nonlocal products
        products += 1
        return functions.hessp(x, p)

    functions = hesse.scipy_functions(counted, task.x0, engine="tape")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = scipy.optimize.minimize(
            functions.fun,
            functions.x0,
            jac=functions.jac,
            hessp=hessp,
            method="trust-krylov",
            options={"gtol": task.target, "maxiter": MOST_STEPS},
        )
    return Answer(torch.from_numpy(found.x), products, evaluations)


def by_pytorch_minimize(task: Task) -> Answer:
    import torchmin.function
    from torchmin import minimize

    evaluations = products = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return task.func(x)

    class Counting:
        """A linear operator that counts its products."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def mv(self, v: Tensor) -> Tensor:
            nonlocal products
            products += 1
            return self.inner.mv(v)

    original = torchmin.function.jacobian_linear_operator
    torchmin.function.jacobian_linear_operator = lambda *arguments, **words: Counting(original(*arguments, **words))
    try:
        found = minimize(counted, task.x0, method="trust-ncg", max_iter=MOST_STEPS, options={"gtol": task.target})
    finally:
        torchmin.function.jacobian_linear_operator = original
    return Answer(found.x, products, evaluations)


def by_optimistix(task: Task) -> Answer:
    """Levenberg-Marquardt with a QR decomposition of J, n products with J a step; BFGS of limited memory otherwise."""
    import equinox
    import jax
    import jax.numpy as jnp
    import optimistix

    jax.config.update("jax_enable_x64", True)
    if task.jax_residuals is not None:
        solver: Any = optimistix.LevenbergMarquardt(rtol=0.0, atol=0.0)
        func = task.jax_residuals
        value = lambda y: 0.5 * (func(y) ** 2).sum()  # noqa: E731  # a function in one line
    else:
        assert task.jax_func is not None
        solver, func = optimistix.LBFGS(rtol=0.0, atol=0.0), task.jax_func
        value = func
    gradient = jax.jit(jax.grad(value))

    def with_aux(y: Any, _: None) -> Any:
        return func(y), None

    y = jnp.asarray(task.x0.numpy())
    struct, aux = jax.eval_shape(with_aux, y, None)
    state = solver.init(with_aux, y, None, {}, struct, aux, frozenset())
    step = equinox.filter_jit(lambda y, state: solver.step(with_aux, y, None, {}, state, frozenset())[:2])
    steps = 0
    while steps < MOST_STEPS and not float(jnp.linalg.norm(gradient(y))) <= task.target:
        y, state = step(y, state)
        steps += 1
    n = len(task.x0)
    return Answer(torch.from_numpy(np.array(y)), n * steps if task.jax_residuals is not None else None, steps + 1)


MINIMIZERS: dict[str, Minimizer] = {
    "hesse": by_hesse("newton"),
    "hesse, Levenberg-Marquardt": by_hesse("levenberg-marquardt"),
    "SciPy trust-krylov on hesse": by_scipy,
    "pytorch-minimize trust-ncg": by_pytorch_minimize,
    "optimistix": by_optimistix,
}
