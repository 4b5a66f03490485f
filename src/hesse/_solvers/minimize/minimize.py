"""``minimize``: a minimum of a function, by trust-region steps with its products."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from hesse._base import checks
from hesse._linearize.choice import Choice
from hesse._linearize.options import Name
from hesse._solvers.checkpoint import Checkpoint
from hesse._solvers.minimize.minimum import MESSAGES, REMEDIES, Minimum
from hesse._solvers.minimize.places import place_of
from hesse._solvers.minimize.trust_region import TrustRegion
from hesse._solvers.run import Callback, Products

METHODS = ("newton", "levenberg-marquardt")


def minimize(
    func: Callable[..., Any],
    x0: Any,
    *,
    method: Literal["newton", "levenberg-marquardt"] = "newton",
    tol: float = 1e-6,
    atol: float = 0.0,
    max_products: int = 10_000,
    engine: Name | Choice = "auto",
    verify: bool = True,
    checkpoint: Checkpoint | str | Path | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Minimum:
    checks.functions("minimize", func=func)
    checks.choices("minimize", METHODS, method=method)
    checks.numbers("minimize", tol=tol, atol=atol)
    place = place_of(method, func, x0, engine=engine, verify=verify)
    with Products(
        place.operator, "minimize", max_products=max_products, callback=callback, progress=progress
    ) as products:
        x = place.space.flatten(x0).detach().clone()
        saved = products.resume(checkpoint, method=method, tol=tol, atol=atol, x0=x)
        products.count += place.gradient_price if saved is None else 0
        search = TrustRegion(products, place, x, tol, atol)
        if saved is not None:
            search.load(saved)
        search.run()
        ending = search.ending
        if ending in REMEDIES:
            products.warn(f"the norm of the gradient is {search.place.slope:.3g}, where {search.target:.3g} was asked for", REMEDIES[ending])
    return Minimum(
        x=place.space.unflatten(search.x),
        fun=search.place.value,
        grad_norm=search.place.slope,
        nit=search.nit,
        nfev=search.nfev,
        num_products=products.count,
        converged=ending == "converged",
        message=MESSAGES[ending],
        method=method,
    )
