"""``scipy_functions``: a function as ``scipy.optimize.minimize`` takes it, evaluated once a point."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hesse._autograd.arguments import check_point
from hesse._linearize.choice import Choice
from hesse._linearize.options import Name
from hesse._operators import conversions
from hesse._operators.conversions import Array
from hesse._operators.hessian import Hessian

# So many points stay evaluated: the current one, a trial, and the best of a line search.
POINTS = 3


@dataclasses.dataclass(frozen=True, eq=False)
class ScipyFunctions:
    """Functions of flat NumPy vectors; they unpack to ``fun, jac, hessp, x0``.

    Attributes:
        fun: f(x), a float.
        jac: ∇f(x), (n,), float64.
        hessp: ∇²f(x)·p, called as ``hessp(x, p)``, (n,), float64.
        x0: the first point, (n,), float64.
        unflatten: a flat NumPy vector as a point in the structure that ``x0`` was given in.
    """

    fun: Callable[[Array], float]
    jac: Callable[[Array], Array]
    hessp: Callable[[Array, Array], Array]
    x0: Array
    unflatten: Callable[[Array], Any]

    def __iter__(self) -> Iterator[Any]:
        """What ``scipy.optimize.minimize`` takes, in this order."""
        return iter((self.fun, self.jac, self.hessp, self.x0))


def scipy_functions(
    func: Callable[..., Any], x0: Any, *, engine: Name | Choice = "auto", verify: bool = True
) -> ScipyFunctions:
    r"""Value, gradient and Hessian products of a function for ``scipy.optimize.minimize``.

    ``func`` is evaluated once at each point, in whichever order SciPy asks for :math:`f(x)`, :math:`\nabla f(x)` and
    :math:`\nabla^2 f(x)\, p`. The last three points stay evaluated, and so does the point of the last product. Where a
    tensor that ``func`` captures has changed in place they are evaluated anew; after another change of what it reads
    (another number or tensor in a variable), call ``scipy_functions`` again.

    Args:
        func: takes the inputs, returns a real tensor with a single element.
        x0: the first point: a tensor or a structure of them, as for :class:`hesse.Hessian`.
        engine, verify: as for :class:`hesse.Hessian`; one program serves all points.

    Returns:
        ``ScipyFunctions``, which unpacks to ``fun, jac, hessp, x0``.

    Raises:
        TypeError, RuntimeError, CaptureError: as for :class:`hesse.Hessian`.

    Example:
        >>> import torch, hesse, scipy.optimize
        >>> def func(point):
        ...     return (point["a"] - 1).square().sum() + (point["b"] - point["a"].sum()) ** 4
        >>> start = {"a": torch.zeros(2).double(), "b": torch.tensor(5.0).double()}
        >>> functions = hesse.scipy_functions(func, start)
        >>> fun, jac, hessp, x0 = functions
        >>> found = scipy.optimize.minimize(fun, x0, jac=jac, hessp=hessp, method="trust-krylov", tol=1e-9)
        >>> functions.unflatten(found.x)["a"].round(decimals=3)
        tensor([1., 1.], dtype=torch.float64)
    """
    check_point("scipy_functions", func, x0)
    points = _Points(Hessian(func, x0, engine=engine, verify=verify))
    return ScipyFunctions(points.fun, points.jac, points.hessp, points.first, points.unflatten)


class _Points:
    """The Hessians at the points that were asked for last."""

    def __init__(self, H: Hessian) -> None:
        self._space = H.domain
        self.first = _double(H.flatten(H.domain.spec.rebuild(H.domain.leaves)))
        self._product_at = _key(self.first)
        self._kept = {self._product_at: H}

    def _at(self, x: Array) -> Hessian:
        key = _key(x)
        H = self._kept.get(key)
        if H is None or H._point.guard.is_stale():
            H = next(reversed(self._kept.values())).at(self.unflatten(x))
        self._kept.pop(key, None)
        # The point that was asked for last stands last.
        self._kept[key] = H
        while len(self._kept) > POINTS + (self._product_at in self._kept):
            del self._kept[next(each for each in self._kept if each != self._product_at)]
        return H

    def fun(self, x: Array) -> float:
        """f(x)."""
        return float(self._at(x).value)

    def jac(self, x: Array) -> Array:
        """∇f(x)."""
        H = self._at(x)
        return _double(H.flatten(H.gradient))

    def hessp(self, x: Array, p: Array) -> Array:
        """∇²f(x)·p."""
        H = self._at(x)
        self._product_at = _key(x)
        return _double(H.matmat(H.check_columns(conversions.to_tensor(H, np.reshape(p, (-1, 1)))))).reshape(-1)

    def unflatten(self, x: Array) -> Any:
        """x in the structure of the inputs."""
        H = next(iter(self._kept.values()))
        return self._space.unflatten(conversions.to_tensor(H, x))


def _key(x: Array) -> bytes:
    # Negative zero is zero.
    return (np.asarray(x, dtype=np.float64) + 0.0).tobytes()


def _double(tensor: Any) -> Array:
    return conversions.to_numpy(tensor).astype(np.float64)
