"""``minimize``: a minimum of a function, by trust-region steps that are made of products."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from hesse._autograd.arguments import check_point
from hesse._base import checks
from hesse._linearize.choice import Choice
from hesse._linearize.options import Name
from hesse._operators.data_operator import DataOperator
from hesse._operators.function_point import FunctionPoint
from hesse._operators.operator import Operator
from hesse._solvers.checkpoint import Checkpoint
from hesse._solvers.minimize.minimum import MESSAGES, REMEDIES, Minimum
from hesse._solvers.minimize.places import METHODS, DataPlace
from hesse._solvers.minimize.subspace import FactorSpace, KrylovSpace
from hesse._solvers.minimize.trust_region import TrustRegion
from hesse._solvers.run import Callback as Watch
from hesse._solvers.run import Products


def minimize(
    func: Callable[..., Any] | DataOperator,
    x0: Any = None,
    *,
    method: Literal["newton", "levenberg-marquardt", "sparse-newton"] = "newton",
    pattern: Any = None,
    engine: Name | Choice = "auto",
    verify: bool = True,
    tol: float = 1e-6,
    atol: float = 0.0,
    max_products: int = 10_000,
    memory: int | str | None = None,
    checkpoint: Checkpoint | str | Path | None = None,
    callback: Watch | None = None,
    progress: bool = False,
) -> Minimum:
    r"""A minimum of a function, by a trust-region method.

    Each step minimizes the model :math:`g^\top s + \frac12 s^\top A s` with :math:`\|s\| \le \Delta` in a Krylov space
    of A and g. ``"newton"`` minimizes :math:`f(x)`, with the Hessian as A, and follows negative curvature; it holds no
    matrix. ``"sparse-newton"`` does the same by the sparse Hessian and its factors, shifted where it is not positive
    definite: the space is that of :math:`(A + \sigma I)^{-1}` and g, which has Newton's step in its second vector.
    ``"levenberg-marquardt"`` minimizes :math:`\frac12 \|r(x)\|^2`, with :math:`A = J^\top J`; the multiplier of the
    constraint is its damping. The minimum is a local one, as far as the gradient tells: a saddle point where g is zero
    ends the search too.

    An operator over data in place of ``func`` stands for its loss, whose parameters move: a ``LossHessian`` takes steps
    of Newton, a ``GaussNewton`` or ``Fisher`` those of its own matrix. The model stays as it is; ``x`` holds the
    parameters of the minimum. On several ranks all of them call it, also where each holds a part of the parameters.

    Args:
        func: takes the inputs. For ``"newton"`` it returns a real tensor with a single element; for
            ``"levenberg-marquardt"`` the residuals, a tensor or a structure of them.
        x0: where to begin, left as it is; of an operator over data, values of its parameters, those of the model when
            left out: a floating-point or complex tensor, or a structure of them; an outermost
            tuple is splatted into ``func``.
        method: ``"newton"``, ``"levenberg-marquardt"`` or ``"sparse-newton"``.
        pattern: for ``"sparse-newton"``, where entries of the Hessian may be, as :meth:`hesse.Operator.to_sparse` takes
            it; found from ``func`` when left out.
        engine, verify: as for :class:`hesse.Hessian`; one program serves all points.
        tol: norm of the gradient relative to the first one.
        atol: norm of the gradient.
        max_products: how many products may be made; those with J and with Jᵀ count as one each, a sparse Hessian as
            one for each color and two that compare it.
        memory: what the subspace, points and gradients may take at their peak, beside what a product, a sparse Hessian
            and its factors take: bytes, or a size such as ``"2GiB"``, at least that of twelve vectors, or fourteen for
            ``"sparse-newton"``; a quarter of the device's memory where it is not given.
        checkpoint: a file that keeps the state every minute, or a ``hesse.Checkpoint`` that says how often; where there
            is one already, the search goes on from it.
        callback: given a ``hesse.Progress`` after each product; a true answer stops the search.
        progress: whether to show a bar on standard error.

    Returns:
        ``Minimum``, with ``x`` in the structure of ``x0``. Where the gradient is not small enough, ``converged`` is
        false, and one ``hesse.ConvergenceWarning`` is issued.

    Raises:
        TypeError, RuntimeError: ``func`` returns no scalar; or for residuals no tensors, or a scalar.
        ValueError: value or gradient at ``x0`` are not finite, a number is out of range, or ``pattern`` lacks an entry
            or is given to another method.
        ImportError: ``"sparse-newton"`` needs numba, of ``hesse[sparse]``.
        CaptureError: ``engine="compiled"`` cannot take ``func``.
        MemoryBudgetError: ``memory`` allows fewer vectors than that, or the factors do not fit.
        NonFiniteProductError: a product at ``x0`` holds infinities or NaNs.
        CheckpointError: the checkpoint is of another question, function or version, or damaged.

    Source: ``trust_region.py``; Moré, "The Levenberg-Marquardt algorithm: implementation and theory", Lecture Notes in
    Mathematics 630 (1978) 105–116.

    Example:
        >>> import torch, hesse
        >>> def rosenbrock(x):
        ...     return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
        >>> found = hesse.minimize(rosenbrock, torch.zeros(5, dtype=torch.float64), tol=1e-9)
        >>> found.x, found.converged
        (tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000], dtype=torch.float64), True)
        >>> hesse.minimize(rosenbrock, torch.zeros(40, dtype=torch.float64), method="sparse-newton").converged
        True
        >>> def residuals(x):
        ...     return {"slopes": 10 * (x[1:] - x[:-1] ** 2), "heights": 1 - x[:-1]}
        >>> hesse.minimize(residuals, torch.zeros(5, dtype=torch.float64), method="levenberg-marquardt").converged
        True
        >>> line = torch.nn.Linear(1, 1)
        >>> data = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [3.0]])
        >>> found = hesse.minimize(hesse.LossHessian(line, torch.nn.functional.mse_loss, data))
        >>> {name: round(value.item(), 3) for name, value in found.x.items()}
        {'weight': 2.0, 'bias': 1.0}
    """
    over_data = None
    if isinstance(func, DataOperator) and not isinstance(func._point, FunctionPoint):
        over_data = func
    elif isinstance(func, Operator):
        raise TypeError(
            "func given to minimize should be a function of x0, or an operator over data, but is a"
            f" {type(func).__name__}. Give the function that it is made of."
        )
    else:
        check_point("minimize", func, x0)
    checks.functions("minimize", optional=True, callback=callback)
    checks.choices("minimize", list(METHODS), method=method)
    checks.numbers("minimize", tol=tol, atol=atol)
    checks.wholes("minimize", 1, max_products=max_products)
    if pattern is not None and method != "sparse-newton":
        raise ValueError(f'pattern given to minimize is for method="sparse-newton" but method is {method!r}.')
    place = (
        METHODS[method](pattern, func, x0, engine=engine, verify=verify)
        if over_data is None
        else _over_data(over_data, x0, method=method, engine=engine, verify=verify)
    )
    if not place.is_finite:
        raise ValueError(
            f"func given to minimize should be finite at x0 but its value is {place.value:.6g}, with a gradient of norm"
            f" {place.slope:.6g}."
        )
    first = place.value
    x = place.space.join(place.space.leaves).clone() if x0 is None else place.space.flatten(x0).detach().clone()
    with Products(
        place.operator,
        "minimize",
        max_products=max_products,
        callback=callback,
        progress=progress,
        memory=memory,
    ) as products:
        saved = products.resume(checkpoint, method=method, tol=tol, atol=atol, x0=x, pattern=place.pattern)
        search = TrustRegion(products, place, x, tol, atol, FactorSpace if method == "sparse-newton" else KrylovSpace)
        if saved is not None:
            search.load(saved)
        search.run()
        if search.ending in REMEDIES:
            what, remedy = REMEDIES[search.ending]
            what = what.format(first=first, value=search.place.value, rounding=search.place.rounding)
            products.warn(
                f"the norm of the gradient is {search.place.slope:.3g}, not {search.target:.3g}: {what}", remedy
            )
    return Minimum(
        x=search.place.space.unflatten(search.x),
        fun=search.place.value,
        grad_norm=search.place.slope,
        nit=search.nit,
        nfev=search.nfev,
        num_products=products.count,
        converged=search.ending == "converged",
        message=MESSAGES[search.ending],
        method=method,
    )


def _over_data(A: DataOperator, x0: Any, **given: Any) -> DataPlace:
    """The loss of an operator over data, where the search begins."""
    for keyword, usual in (("method", "newton"), ("engine", "auto"), ("verify", True)):
        if given[keyword] != usual:
            raise ValueError(
                f"{keyword}={given[keyword]!r} given to minimize is for functions, but func is a {type(A).__name__},"
                " which has its own matrix and engine. Leave it out, or give another operator."
            )
    return DataPlace(A if x0 is None else A.at(parameters=x0))
