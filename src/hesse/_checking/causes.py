"""From what was observed to findings: what is wrong, at which line, and what helps."""

from __future__ import annotations

import contextlib

import torch

from hesse._autograd.cuts import CUTTING, Cut
from hesse._autograd.dependence import Missed
from hesse._autograd.missing import MissingDerivative
from hesse._autograd.provenance import Failure
from hesse._base import precision, trees
from hesse._checking.calls import Calls, change_in_place
from hesse._checking.comparing import Comparison
from hesse._checking.finding import Finding, found
from hesse._checking.observing import Observation, Place, is_kinked
from hesse._checking.subject import Evaluation, Subject
from hesse._checking.suspects import Suspect, suspects
from hesse._checking.unbounded import first_call, first_node


def compiled(place: Place) -> Finding:
    """A function that torch.compile made and that could not be run eagerly."""
    return found(
        "compiled",
        "A function compiled by torch.compile runs here, and what is compiled has no second derivative.",
        "Call torch.compile before, outside of the function, and leave the compiler's stance alone: then hesse runs it"
        " eagerly.",
        at=Place("", place.frame),
    )


def failed(subject: Subject, failure: Failure) -> Finding:
    """A backward raised."""
    message = " ".join(str(failure.error).split())
    if "modified by an inplace operation" in message:
        calls = Calls()
        with contextlib.suppress(type(failure.error)):
            subject.evaluate(scope=lambda: calls)
        change = change_in_place(calls.log, failure.frame)
        return found(
            "changed in place",
            f"{change.operator if change else 'An operation'} changes in place what {failure.operator.lower()}"
            f"{f' in line {failure.frame.line}' if failure.frame else ''} needs for its derivative.",
            "Make a new tensor instead.",
            at=change or failure,
        )
    if "::" in failure.operator:
        sentence = f"PyTorch has no derivative of {failure.operator}, which the gradient of this line calls."
        remedy = "Write that in other operations, or give the operator a rule (docs/rules.md)."
    elif isinstance(missing := failure.error.__context__, MissingDerivative):
        sentence, remedy = f"{missing.reason[0].upper()}{missing.reason[1:]}.", missing.remedy
    else:
        sentence = f"The derivative of {failure.operator} raises {type(failure.error).__name__}: {message}"
        remedy = ""
    return found("no second derivative", sentence, remedy, at=failure)


def not_finite(subject: Subject, evaluation: Evaluation) -> Finding:
    """Value or gradient hold NaNs or infinities."""
    if bool(evaluation.value.isfinite().all()):
        return derivative_not_finite("gradient", first_node(subject, None))
    first = first_call(subject)
    source = f"; the first is made by {first.operator}" if first else ""
    return found("not finite", f"The value is {float(evaluation.value)}{source}.", at=first)


_DECOMPOSITIONS = ("LinalgEigh", "LinalgEig", "LinalgSvd")
_EQUAL_VALUES = (
    "Vectors of equal eigenvalues or singular values have no derivative: write what is a function of the matrix without"
    " them, as a trace, a norm or a power, or part the values by a small constant matrix."
)
_ROOT = (
    "Keep away from points without a derivative, say by a small constant inside a root or a norm; where() around it"
    " does not help, clamping its argument does."
)


def derivative_not_finite(name: str, first: Place | None) -> Finding:
    """A gradient or a product holds NaNs or infinities, though the value is finite."""
    source = f", the first made by the derivative of {first.operator}" if first else ""
    return found(
        "not finite",
        f"The {name} holds NaNs or infinities though the value is finite{source}.",
        _EQUAL_VALUES if first and first.operator in _DECOMPOSITIONS else _ROOT,
        at=first,
    )


def asymmetric(asymmetry: float, precision: torch.dtype) -> Finding:
    """uᵀHv is not vᵀHu, though no operator by itself is wrong."""
    return found(
        "wrong",
        f"The product is not symmetric: uᵀHv and vᵀHu differ by {asymmetry:.1e}, more than rounding explains.",
        "Look at custom backwards: one of them is no derivative."
        if precision == torch.float64
        else "Compute in float64 to see whether it is rounding; else some custom backward is wrong.",
    )


def noisy(noise: float, device: torch.device) -> Finding:
    """uᵀHv is not vᵀHu, as far as products are not linear either: no derivative is wrong."""
    around = precision.told(device)
    reason = around or "something inside has a narrower dtype than the inputs"
    return found(
        "precision",
        f"Products are linear only to {noise:.1e}: {reason}.",
        "Leave it off where that is too little." if around else "Cast to a wider dtype there.",
    )


def zero(observed: Observation, evaluation: Evaluation) -> Finding:
    """All products are zero, and rightly so."""
    steps = [cut for cut in observed.cuts if cut.kind == "steps"]
    if steps:
        return found("zero", f"The Hessian is zero: {steps[0].sentence}", steps[0].remedy, at=steps[0])
    if not any(evaluation.connected):
        return found("zero", "The Hessian is zero: the value does not depend on the inputs.")
    return found("zero", "The Hessian is zero: the function is linear in its inputs here.")


def missed(why: Missed) -> Finding:
    """Products are zero, since autograd does not connect the value to what it is computed of."""
    if why.cut is None:
        return found("not connected", f"The value {why.clause}.", why.remedy)
    sentence = f"{why.cut.sentence} The value does not depend on them otherwise, so that every product is zero."
    return found("cut off", sentence, why.remedy, at=why.cut)


def explain(
    subject: Subject, observed: Observation, comparison: Comparison, evaluation: Evaluation
) -> tuple[list[Finding], list[Finding]]:
    """Findings and notes on derivatives that differ from differences, or cannot be compared with them."""
    verdicts = {found.verdict for found in (comparison.slope, comparison.curvature) if found is not None}
    narrow = [cut for cut in observed.cuts if cut.kind == "narrow"]
    findings: list[Finding] = []
    notes: list[Finding] = []
    if "disagrees" in verdicts:
        if narrow:
            # Rounded to steps, a function is constant between them, and differences agree on that.
            verdicts = {"not smooth"}
        elif observed.kinks and comparison.rounding is None and _native_eps(subject) > 1e-10:
            # Single precision cannot take steps so small that they reach over no kink.
            verdicts = {"not smooth"}
        else:
            return _wrong(subject, observed, comparison), []
    if "not smooth" in verdicts and narrow:
        findings += [_coarse(cut, comparison.rounding, subject) for cut in narrow[:1]]
    elif "not smooth" in verdicts:
        notes.append(_not_smooth(observed))
    if "too coarse" in verdicts:
        notes.append(found("precision", "Differences in this precision are too coarse to judge the derivatives."))
    if comparison.rounding is not None and comparison.rounding > _native_eps(subject) ** (1 / 3):
        findings = [_coarse(cut, comparison.rounding, subject) for cut in narrow[:1]] or [
            _rounded(comparison.rounding, subject)
        ]
    if not findings and any(evaluation.connected) and not all(evaluation.connected):
        notes.append(_unconnected(subject, evaluation))
    return findings, notes


def _wrong(subject: Subject, observed: Observation, comparison: Comparison) -> list[Finding]:
    """The derivatives are not those of the function: an operator is wrong, or something cuts it off."""
    found_wrong = suspects(subject)
    guilty = [suspect for suspect in found_wrong if not is_kinked(suspect.operator)]
    if guilty:
        return [_suspected(suspect) for suspect in guilty]
    cuts = [cut for cut in observed.cuts if cut.kind in CUTTING] or observed.numbers
    order = "gradient" if comparison.slope is not None and comparison.slope.verdict == "disagrees" else "product"
    if cuts:
        return [_cut_off(cut, order) for cut in cuts]
    kinks = [Place(suspect.operator, suspect.frame) for suspect in found_wrong] or observed.kinks
    if kinks:
        return [_at_a_kink(kinks[0], order)]
    return [
        found(
            "wrong",
            f"The {order} differs from finite differences, and no line could be named.",
            "Look for what PyTorch does not see: NumPy, TorchScript, or a custom backward.",
        )
    ]


def _at_a_kink(kink: Place, order: str) -> Finding:
    """Differences from both sides agree on a derivative that PyTorch's convention for a kink is not."""
    return found(
        "wrong",
        f"The {order} differs from finite differences: where {kink.operator} has a kink its derivatives count as zero,"
        " also if the whole is smooth there.",
        "Write what is smooth without it, such as x**2 for abs(x)**2, or keep away from the kink.",
        at=kink,
    )


def _suspected(suspect: Suspect) -> Finding:
    if suspect.once:
        sentence = f"The backward of {suspect.operator} is marked once_differentiable, so it counts as a constant."
        remedy = "Leave the decorator out, and write the backward with operations that PyTorch can differentiate."
    elif suspect.order == 1:
        sentence = f"The backward of {suspect.operator} does not give the derivative of its forward."
        remedy = "Correct it, unless another derivative is meant."
    else:
        sentence = f"The backward of {suspect.operator} is right, but the derivative of that backward is not."
        remedy = "Compute it from saved inputs and outputs alone, with operations that PyTorch can differentiate."
    return found("wrong", sentence, remedy, at=suspect)


def _cut_off(cut: Cut, order: str) -> Finding:
    sentence = f"{cut.sentence} The {order} differs from finite differences."
    return found("cut off", sentence, cut.remedy, at=cut)


def _coarse(cut: Cut, rounding: float | None, subject: Subject) -> Finding:
    cost = "Differences do not settle" if rounding is None else f"The product is {rounding:.1e} off"
    around = precision.told(subject.leaves[0].device)
    cost += f": {around}" if around else ""
    return found("precision", f"{cut.sentence} {cost}.", cut.remedy, at=cut)


def _rounded(rounding: float, subject: Subject) -> Finding:
    around = precision.told(subject.leaves[0].device)
    return found(
        "precision",
        f"The product is {rounding:.1e} away from the same in float64{f': {around}' if around else ''}.",
        "Leave that off, or compute in float64." if around else "Compute in float64, or scale the problem.",
    )


def _not_smooth(observed: Observation) -> Finding:
    kinks = observed.kinks
    which = f" ({', '.join(dict.fromkeys([kink.operator for kink in kinks]))})" if kinks else ""
    return found(
        "not smooth",
        f"The function is not smooth here: differences at shrinking steps do not settle{which}. The product is that of"
        " the smooth piece that PyTorch chooses.",
        at=kinks[0] if kinks else None,
    )


def _unconnected(subject: Subject, evaluation: Evaluation) -> Finding:
    paths = zip(subject.point.spec.paths, evaluation.connected, strict=True)
    names = [trees.path_name(path) for path, connected in paths if not connected]
    return found(
        "not connected",
        f"The value does not depend on {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''};"
        " products are zero there.",
    )


def _native_eps(subject: Subject) -> float:
    return max([torch.finfo(leaf.dtype).eps for leaf in subject.leaves])
