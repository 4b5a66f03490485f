"""What the questions about sums refuse, one sentence each."""

from __future__ import annotations

from collections.abc import Sequence


def check_question(
    question: str, *, method: tuple[str, Sequence[str]] | None = None, confidence: float | None = None, **least: float
) -> None:
    """Refuse a method that is none of those known, a confidence that is none, and tolerances below zero."""
    if method is not None and method[0] not in method[1]:
        known = ", ".join(repr(name) for name in method[1])
        raise ValueError(f"method given to {question} should be one of {known} but is {method[0]!r}.")
    for name, value in least.items():
        if not value >= 0:
            raise ValueError(f"{name} given to {question} should be at least 0 but is {value}.")
    if confidence is not None and not 0 < confidence < 1:
        raise ValueError(f"confidence given to {question} should be between 0 and 1 but is {confidence}.")
