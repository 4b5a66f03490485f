"""Whether a function does the same when it is evaluated again, and if not, at which line it begins to differ."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hesse._autograd.captured import captured, reached, same
from hesse._base.devices import generator_states
from hesse._checking.calls import Call, Calls, first_difference
from hesse._checking.finding import Finding, found
from hesse._checking.subject import Evaluation, Subject


class Repetition(NamedTuple):
    """What evaluating again has shown.

    Attributes:
        evaluation: the first one.
        deterministic: a second evaluation gave the same value and gradient, bit for bit.
        repeatable: it did so at least from the same state of generators and captured tensors.
        draws: an evaluation draws random numbers from one of PyTorch's or NumPy's global generators.
        findings: at most one.
        notes: what is worth knowing of a function that repeats itself.
    """

    evaluation: Evaluation
    deterministic: bool
    repeatable: bool
    draws: bool
    findings: list[Finding]
    notes: list[Finding]


def repeat(subject: Subject) -> Repetition:
    """Evaluate in a row, and again from the state at the beginning."""
    with subject.preserved() as state:
        before = _generators(subject)
        first = subject.advance()
        draws = _generators(subject) != before
        written = _names(subject, state.written())
        second = subject.advance()
    again = subject.evaluate()
    if _same_bits(first, second) and _same_bits(first, again):
        notes = [_writes(written)] if written else []
        notes += [_draws()] if draws else []
        return Repetition(first, True, True, draws, [], notes)
    source = _source(subject)
    if not _same_bits(first, again):
        finding = _changing(first, again, source)
    elif draws:
        finding = found(
            "random",
            f"Each evaluation draws other random numbers{_by(source)}.",
            "A Hessian keeps the draw of its one evaluation; for one that can be made again, seed a generator in the"
            " function, or switch dropout off with eval().",
            at=source,
        )
    else:
        finding = found(
            "changing",
            f"Each evaluation changes {_listed(written) or 'a captured object'}, and the value depends on it.",
            "Give the function what it changes as an argument, or reset it at the beginning.",
            at=source,
        )
    return Repetition(first, False, _same_bits(first, again), draws, [finding], [])


def _changing(first: Evaluation, again: Evaluation, source: Call | None) -> Finding:
    """From the same generators and tensors another result: Python's state, or the order of additions."""
    eps = torch.finfo(first.value.dtype).eps
    rounding = all(
        [
            bool(((a - b).abs().max() <= 1e3 * eps * a.abs().max()).item()) if a.numel() else True
            for a, b in zip((first.value, *first.gradient), (again.value, *again.gradient), strict=True)
        ]
    )
    if rounding:
        sentence = f"Two evaluations differ in the last digits{_by(source)}."
        remedy = "See torch.use_deterministic_algorithms; products agree to that precision only."
    else:
        sentence = f"Two evaluations from the same state differ{_by(source)}."
        remedy = "Something that the function counts or reads changes with each call; give it as a constant."
    return found("changing", sentence, remedy, at=source)


def _source(subject: Subject) -> Call | None:
    first, second = Calls(), Calls()
    with subject.preserved():
        subject.advance(scope=lambda: first)
        subject.advance(scope=lambda: second)
    return first_difference(first.log, second.log)


def _writes(names: Sequence[str]) -> Finding:
    return found(
        "writes",
        f"Each evaluation changes {_listed(names)}, as that of BatchNorm in training does; the value does not depend on"
        " it.",
    )


def _draws() -> Finding:
    return found(
        "random",
        "Each evaluation draws random numbers or seeds a generator; two in a row gave the same value and gradient.",
    )


def _by(source: Call | None) -> str:
    return "" if source is None else f", beginning with {source.operator}"


def _names(subject: Subject, tensors: Iterable[Tensor]) -> list[str]:
    names = {id(tensor): name for name, tensor in captured(subject.func)}
    return [names.get(id(tensor), "an input").removeprefix("The ") for tensor in tensors]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - 2
    return ", ".join(names[:2]) + (f" and {more} more" if more > 0 else "")


def _generators(subject: Subject) -> list[bytes]:
    """The states of all generators that an evaluation may draw from, as far as they can be found."""
    kind, keys, position, *_ = np.random.get_state()  # noqa: NPY002  # users' code may draw from it
    states = [state.numpy().tobytes() for state in generator_states().values()]
    states.append(str(random.getstate()).encode())
    states.append(f"{kind}{position}".encode() + np.asarray(keys).tobytes())
    states += [rng.get_state().numpy().tobytes() for _, rng in reached(subject.func, torch.Generator)]
    states += [str(rng.bit_generator.state).encode() for _, rng in reached(subject.func, np.random.Generator)]
    return states


def _same_bits(one: Evaluation, other: Evaluation) -> bool:
    return all([same(a, b) for a, b in zip((one.value, *one.gradient), (other.value, *other.gradient), strict=True)])
