"""What a backward of hesse's own raises where a derivative does not exist, before the user's line is known."""

from __future__ import annotations

import re

_NO_FORMULA = re.compile(r"derivative for '?(?P<operator>[\w:.]*\w)(: \w+)?'? is not implemented")
_NO_TANGENT = re.compile(r"Trying to use forward AD with (?P<operator>\w+) that does not support it")
# Other ways in which PyTorch says that something cannot be differentiated.
_OTHERS = [
    re.compile(text)
    for text in (
        r"Trying to backward through (?P<operator>[\w.]+) but no autograd formula was registered",
        r"(?P<operator>\w+)\(\): functions with out=\.\.\. arguments don't support automatic differentiation",
        r"Function (?P<operator>\w+) returned an invalid gradient",
        r"(?P<operator>\w+)\(\): Double backward is unsupported",
        r"\w+ expected sparse coordinate tensor layout but got \w+(?P<operator>)",  # of whichever operator
        r"^\"\w+\" not implemented for '\w+'(?P<operator>)",  # a kernel, by its own name
        r"The function '(?P<operator>\w+)' is not differentiable with respect to argument",
        r"^(?P<operator>aten\.\w+\.\w+)$",
    )
]


class MissingDerivative(NotImplementedError):
    """A derivative does not exist; on its way to be told in full.

    Attributes:
        operator: the operator, or the torch.autograd.Function, that it is missing of; "" where PyTorch says none.
        reason: why, as a clause.
        remedy: what helps, as a sentence.
    """

    def __init__(self, operator: str, reason: str, remedy: str) -> None:
        # All arguments are the error's, so that it pickles.
        super().__init__(operator, reason, remedy)
        self.operator, self.reason, self.remedy = operator, reason, remedy

    @staticmethod
    def of_error(error: Exception) -> MissingDerivative | None:
        """What PyTorch says in a backward; None where that is something else."""
        if hasattr(error, "func"):
            return None  # a stand-in without numbers is told apart where a function is captured
        text = str(error)
        found = _NO_FORMULA.search(text)
        if found is not None:
            return MissingDerivative.of_operator(_full_name(found["operator"]))
        found = _NO_TANGENT.search(text)
        if found is not None:
            operator = _full_name(found["operator"])
            return MissingDerivative(
                operator,
                f"PyTorch has no derivative of {operator} by forward mode",
                "Use the reverse mode, or write that in other operations.",
            )
        others = (pattern.search(text) for pattern in _OTHERS)
        found = next((found for found in others if found is not None), None)
        if found is None:
            return None
        # A text that is a name says nothing more.
        said = f"{text} is not implemented" if found["operator"] == text else text.splitlines()[0].rstrip(".")
        return MissingDerivative(
            _full_name(found["operator"]),
            f"PyTorch has no derivative there ({said})",
            "Write that in other operations, or give the operator a rule (docs/rules.md).",
        )

    @staticmethod
    def of_operator(operator: str) -> MissingDerivative:
        """That of an operator without a formula."""
        return MissingDerivative(
            operator,
            f"derivative for {operator} is not implemented, neither by PyTorch nor as a rule of hesse",
            "Write that in other operations, or give the operator a rule (docs/rules.md).",
        )


def _full_name(name: str) -> str:
    """An operator's name with its namespace, as in "aten::zeta"; a node's as it is."""
    if not name or "::" in name or name.endswith(tuple("0123456789")):
        return name
    parts = name.removesuffix(".default").split(".")
    return "::".join((parts[0], ".".join(parts[1:]))) if len(parts) > 1 else f"aten::{name}"
