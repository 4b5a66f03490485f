"""``Finding``: one thing that a check has found, and where."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from hesse._autograd.provenance import Frame


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a check has found.

    Attributes:
        kind: what it is about, in a word or two: ``"no second derivative"``, ``"wrong"``, ``"cut off"``, ``"zero"``,
            ``"random"``, ``"changing"``, ``"changed in place"``, ``"not finite"``, ``"not smooth"``, ``"precision"``,
            ``"compiled"``, ``"not compiled"``, ``"not connected"``, ``"writes"``,
            ``"raises"``.
        sentence: what was found.
        remedy: a sentence on what helps, where something does.
        operator: name of the operator that is guilty, where one is.
        file, line: where the user's code called it, as far as that could be traced.
        code: what stands in that line, where the file can be read.
    """

    kind: str
    sentence: str
    remedy: str = ""
    operator: str | None = None
    file: str | None = None
    line: int | None = None
    code: str = ""

    @property
    def place(self) -> str:
        """``file:line``, or nothing."""
        return "" if self.file is None else f"{self.file}:{self.line}"

    def __str__(self) -> str:
        return " ".join(part for part in (self.sentence, self.remedy) if part)


class Located(Protocol):
    """An operator, empty where none is to be named, and the user's line that called it."""

    @property
    def operator(self) -> str: ...
    @property
    def frame(self) -> Frame | None: ...


def found(kind: str, sentence: str, remedy: str = "", at: Located | None = None) -> Finding:
    """A finding about an operator and a line of the user's code, where these are known."""
    operator = at.operator or None if at else None
    if at is None or at.frame is None:
        return Finding(kind, sentence, remedy, operator)
    return Finding(kind, sentence, remedy, operator, at.frame.file, at.frame.line, at.frame.code)
