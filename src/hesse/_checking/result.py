"""``Check``: what a check has found, and the screen that tells it."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from typing import Any

import torch

from hesse._base.numbers import duration, memory
from hesse._base.tables import labelled
from hesse._checking.differences import Differences
from hesse._checking.finding import Finding


@dataclasses.dataclass(frozen=True)
class Check:
    """What :func:`hesse.check` has found out; ``print`` it for one screen.

    What an earlier finding kept from being found out is None.

    Attributes:
        findings: what is wrong, the most grave first.
        notes: what is worth knowing, and no fault.
        variables: length of a flat vector; complex entries count twice.
        dtype, device: of flat vectors.
        value: ``func(inputs)``.
        gradient_norm: Euclidean norm of the gradient.
        deterministic: evaluations in a row give the same value and gradient, bit for bit.
        draws: an evaluation draws random numbers.
        twice_differentiable: a product could be made.
        slope: the gradient against differences of the value.
        curvature: the product against differences of the gradient.
        rounding: relative distance of a product from the same one in double precision, where it could be had.
        asymmetry: difference of uᵀHv and vᵀHu relative to the lengths of Hu and Hv, for standard normal u and v.
        rules: operators that hesse differentiated by rules of its own.
        engines: engines that may make the products; the compiled one is tried only where nothing is wrong.
        data_dependent: lines (``file:line``) where values of tensors decide what Python does, or become its numbers: no
            program that is captured once can follow them.
        bytes_kept: memory that a Hessian keeps alive for its products.
        evaluation_seconds: for making a Hessian: one evaluation and its gradient.
        product_seconds: for one product.
        batches, examined: of a problem over data, how many batches were evaluated, and which of them were examined. All
            else is of the first one.
    """

    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    variables: int
    dtype: str
    device: str
    value: float | None = None
    gradient_norm: float | None = None
    deterministic: bool | None = None
    draws: bool | None = None
    twice_differentiable: bool | None = None
    slope: Differences | None = None
    curvature: Differences | None = None
    rounding: float | None = None
    asymmetry: float | None = None
    rules: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    data_dependent: tuple[str, ...] = ()
    bytes_kept: int | None = None
    evaluation_seconds: float | None = None
    product_seconds: float | None = None
    batches: int | None = None
    examined: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def seconds(self, num_products: int) -> float | None:
        """Seconds that an evaluation and so many products would take, one by one."""
        if self.evaluation_seconds is None or self.product_seconds is None:
            return None
        return self.evaluation_seconds + num_products * self.product_seconds

    def to_json(self) -> dict[str, Any]:
        """Everything as strings, numbers, lists and dicts; an infinity or NaN as a string."""
        facts: dict[str, Any] = _plain(dataclasses.asdict(self))
        return {"ok": self.ok, **facts}

    def __str__(self) -> str:
        return "\n".join([_facts(self), "", *_told(self)])

    def __repr__(self) -> str:
        return str(self)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, torch.dtype) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value).removeprefix("torch.")
    return value


def _facts(check: Check) -> str:
    rows = [("variables", f"{check.variables} ({check.dtype} on {check.device})")]
    if check.batches is not None and check.batches > 1:
        rows.append(("batches", f"{check.batches} evaluated, examined: {', '.join(map(str, check.examined))}"))
    if check.value is not None:
        rows.append(("value", f"{check.value:.8g}"))
    if check.gradient_norm is not None:
        rows.append(("gradient norm", f"{check.gradient_norm:.8g}"))
    if check.deterministic is not None:
        rows.append(("deterministic", "yes" if check.deterministic else "no"))
    if check.twice_differentiable is not None:
        rows.append(("twice differentiable", "yes" if check.twice_differentiable else "no"))
    rows += [
        (name, _agreement(found))
        for name, found in (("gradient", check.slope), ("product", check.curvature))
        if found is not None
    ]
    if check.rounding is not None:
        rows.append(("rounding", f"{check.rounding:.1e} from the product in float64"))
    if check.asymmetry is not None:
        rows.append(("symmetry", f"uᵀHv and vᵀHu differ by {check.asymmetry:.1e}"))
    if check.twice_differentiable:
        rows.append(("rules of hesse", ", ".join(check.rules) or "none needed"))
        rows.append(("engines", ", ".join(check.engines)))
    if check.data_dependent:
        more = f" and {len(check.data_dependent) - 2} more" if len(check.data_dependent) > 2 else ""
        rows.append(("depends on values", ", ".join(check.data_dependent[:2]) + more))
    if check.bytes_kept is not None:
        rows.append(("kept", memory(check.bytes_kept)))
    if check.evaluation_seconds is not None and check.product_seconds is not None:
        one = f"evaluation {duration(check.evaluation_seconds)}, product {duration(check.product_seconds)}"
        many = ", ".join(f"{n}: {duration(check.seconds(n) or 0.0)}" for n in (10, 100, 1000))
        rows += [("time", one), ("time for products", many)]
    return labelled(rows)


def _agreement(found: Differences) -> str:
    precision = str(found.precision).removeprefix("torch.")
    match found.verdict:
        case "agrees":
            return f"agrees with differences to {found.error:.1e} ({precision})"
        case "disagrees":
            return f"differs from differences by {found.error:.1e} ({precision})"
        case "not smooth":
            return f"cannot be compared: differences do not settle ({precision}), the function is not smooth here"
        case "too coarse":
            return f"cannot be compared in {precision}"


def _told(check: Check) -> list[str]:
    lines = []
    for mark, found in [("✗", finding) for finding in check.findings] + [("·", note) for note in check.notes]:
        lines.append(f"{mark} {found.kind}: {found.place}" if found.place else f"{mark} {found.kind}")
        lines += [f"    {found.code}"] * bool(found.code)
        lines += textwrap.wrap(str(found), 100, initial_indent="    ", subsequent_indent="    ")
    return [*lines, "All is well." if check.ok else f"{len(check.findings)} found."]
