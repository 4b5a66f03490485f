"""What a backward of hesse's own raises where a derivative does not exist, before the user's line is known."""

from __future__ import annotations


class MissingDerivative(NotImplementedError):
    """A derivative does not exist; on its way to be told in full.

    Attributes:
        operator: the operator, or the torch.autograd.Function, that it is missing of.
        reason: why, as a clause.
        remedy: what helps, as a sentence.
    """

    def __init__(self, operator: str, reason: str, remedy: str) -> None:
        # All arguments are the error's, so that it pickles.
        super().__init__(operator, reason, remedy)
        self.operator, self.reason, self.remedy = operator, reason, remedy

    @staticmethod
    def of_operator(operator: str) -> MissingDerivative:
        """That of an operator without a formula."""
        return MissingDerivative(
            operator,
            f"derivative for {operator} is not implemented, neither by PyTorch nor as a rule of hesse",
            "Write that in other operations, or give the operator a rule (docs/rules.md).",
        )
