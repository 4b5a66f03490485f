"""``Problem``: what a problem file gives to the command, a function and a point, or a model, a loss and data."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hesse._autograd.arguments import check_point
from hesse._base.several_ranks import replicated
from hesse._data.batch_losses import losses_of_batches
from hesse._data.parameters import Params, select
from hesse._linearize.options import Name
from hesse._operators.hessian import Hessian
from hesse._operators.loss_hessian import LossHessian


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A scalar function :math:`f` and a point :math:`x`, whose Hessian :math:`\\nabla^2 f(x)` is asked about.

    Either ``func`` and ``inputs``; or ``model``, ``loss`` and ``data``, where the function is the loss over all data
    and the point are the model's parameters.

    A *problem file* is a Python file with a function ``problem()`` that returns one of these; ``hesse vhp FILE``
    takes it from there. ``problem`` may take the optional keywords ``device`` (a ``torch.device``) and ``dtype``
    (a ``torch.dtype``): then the command's ``--device`` and ``--dtype`` are passed on, and the inputs are taken
    as they come. Otherwise the command moves and casts the inputs, and only them: tensors that ``func`` captures
    stay as they are. Of a model it moves and casts the model and the floating-point tensors of the data.

    Args:
        func: takes the inputs, returns a real tensor with a single element.
        inputs: a floating-point or complex tensor, or a structure of them (tuples, lists, dicts, dataclasses).
            An outermost tuple is splatted into ``func``.
        model, loss, data, params: see :class:`hesse.LossHessian`; ``inputs`` is then the dict of the chosen parameters,
            and ``func`` the loss over all data as a function of them.
        options: other keywords of :class:`hesse.LossHessian`, such as ``weight`` or ``memory``.

    Raises:
        TypeError: ``func`` cannot be called, something in ``inputs`` is no tensor, or it is neither one nor the other.
        RuntimeError: a tensor in ``inputs`` is neither floating-point nor complex.
        ValueError: ``inputs`` holds no tensor, or no parameter matches.

    Example:
        >>> import torch, hesse
        >>> def problem(device=None, dtype=None):
        ...     target = torch.tensor([1.0, 2.0], device=device, dtype=dtype)
        ...     return hesse.Problem(func=lambda x: ((x - target) ** 4).sum(), inputs=torch.zeros_like(target))
        >>> at_zero = problem()
        >>> at_zero.operator() @ torch.ones(2)
        tensor([12., 48.])
        >>> line = torch.nn.Linear(1, 1)
        >>> data = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [1.0]])
        >>> hesse.Problem(model=line, loss=torch.nn.MSELoss(), data=data).operator().to_dense()
        tensor([[4., 2.],
                [2., 2.]])
    """

    func: Callable[..., Any] = None  # type: ignore[assignment]  # of a model it is made below
    inputs: Any = None
    model: nn.Module | None = None
    loss: Any = None
    data: Any = None
    params: Params = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model is not None:
            if self.data is None or not (self.func is None or isinstance(self.func, _LossOverData)):
                raise TypeError("A Problem is func= and inputs=, or model=, loss= and data=, but this is neither.")
            chosen = select(replicated(self.model, "Problem")[0], self.params, "Problem")
            object.__setattr__(self, "inputs", {name: parameter.detach() for name, parameter in chosen.items()})
            object.__setattr__(self, "func", _LossOverData(self))
            return
        if not callable(self.func):
            raise TypeError(f"The func given to Problem must be callable but has type {type(self.func)}.")
        check_point("Problem", self.func, self.inputs)

    def operator(self, engine: Name | None = None, expect: int | None = None) -> Hessian | LossHessian:
        """The Hessian at the point, by an engine: see :class:`hesse.Hessian` and :class:`hesse.LossHessian`.

        One that is asked for here goes before that of ``options``. ``expect`` is how many products will be asked for.
        """
        if self.model is not None:
            asked = {"engine": engine, "expect": expect}
            options = self.options | {name: value for name, value in asked.items() if value is not None}
            return LossHessian(self.model, self.loss, self.data, params=self.params, **options)
        return Hessian(self.func, self.inputs, engine=engine or "auto", expect=expect)

    def function(self) -> tuple[Callable[..., Any], Any]:
        """The function and its inputs; of a model, its loss on the first batch of the data by its parameters."""
        if self.model is None:
            return self.func, self.inputs
        losses = losses_of_batches(self.model, self.loss, self.data, self.params, self.options, "Problem")
        with contextlib.closing(losses):
            first = next(losses)
        return first, first.parameters


class _LossOverData:
    """The loss of a problem's model over its data, as a function of the parameters."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._operator: LossHessian | None = None

    def __call__(self, parameters: dict[str, Tensor]) -> Tensor:
        if self._operator is None:
            operator = self._problem.operator()
            assert isinstance(operator, LossHessian)
            self._operator = operator
        return self._operator.loss_at(parameters)
