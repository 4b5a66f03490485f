"""``GaussNewton``: the Gauss-Newton matrix of a model's loss over data, or of a plain function, as an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from hesse._autograd.arguments import check_point
from hesse._autograd.captured import captured, tensors_of
from hesse._data.curvatures import LossCurvature
from hesse._data.function_objective import FunctionObjective
from hesse._data.linearizers import Linearizer
from hesse._data.losses import Reduction, Weight, recognize
from hesse._data.models import Output, model_objective, watched
from hesse._data.objective import Objective
from hesse._data.parameters import Params
from hesse._data.settings import BatchNorm, Draws, Settings
from hesse._data.terms import OuterTerm
from hesse._linearize.chunks import Mode
from hesse._linearize.engines import Name
from hesse._operators.data_sum import DataSum
from hesse._operators.summation import Place


class GaussNewton(DataSum):
    r"""The (generalized) Gauss-Newton matrix of a loss over data, by a model's parameters, as an operator.

    .. math:: G = \sum_b w_b\, J_b^\top L_b J_b \Big/ \sum_b w_b

    where :math:`J_b` is the Jacobian of the predictions for batch b and :math:`L_b` the Hessian of the batch's loss by
    them. ``GaussNewton(func, inputs, loss=…)`` is the same for the output of a plain function, as inverse problems
    have it: :math:`J^\top L J`, or :math:`J^\top J` of a residual r when the loss :math:`\frac12 \lVert r \rVert^2` is
    left out.

    Args:
        model: any ``nn.Module``; it is left as it is. Or a function of the inputs that returns real tensors.
        loss: called as ``loss(model(x), y)``. For a function of inputs, called as ``loss(output)``.
        data: see :class:`hesse.LossHessian`.
        inputs: in place of loss and data, the point of a plain function: a tensor or a structure of them; an outermost
            tuple is splatted.
        params, reduction, weight, memory, engine, verify, expect, batching, random, batch_norm, progress: see
            :class:`hesse.LossHessian`.
        output: ``output(model, batch)`` returns (prediction, target); needed where a batch is no pair.

    Attributes:
        value, gradient: the loss and its gradient.

    Raises:
        TypeError, ValueError: as for :class:`hesse.LossHessian`; and where ``output`` is missing.

    Source:
        Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural Computation 14
        (2002).

    Example:
        >>> import torch, hesse
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> hesse.GaussNewton(model, torch.nn.MSELoss(), (x, torch.zeros(2, 1))).to_dense()
        tensor([[1., 0.],
                [0., 4.]])
        >>> G = hesse.GaussNewton(lambda x: torch.stack([x[0] ** 2, x[0] - x[1]]), torch.tensor([3.0, 1.0]))
        >>> G.to_dense()
        tensor([[37., -1.],
                [-1.,  1.]])
    """

    def __init__(
        self,
        model: nn.Module | Callable[..., Any],
        *loss_and_data: Any,
        loss: Any = None,
        data: Any = None,
        inputs: Any = None,
        params: Params = None,
        reduction: Reduction | None = None,
        weight: Weight | None = None,
        output: Output | None = None,
        memory: int | str | None = None,
        engine: Name = "auto",
        verify: bool = True,
        expect: int | None = None,
        batching: Mode = "auto",
        random: Draws = "fixed",
        batch_norm: BatchNorm = "refuse",
        progress: bool = False,
    ) -> None:
        settings = Settings(
            reduction=reduction,
            weighted=weight is not None,
            memory=memory,
            engine=engine,
            verify=verify,
            expect=expect,
            batching=batching,
            random=random,
            batch_norm=batch_norm,
            progress=progress,
        )
        if isinstance(model, nn.Module):
            loss, data = _arguments(loss_and_data, loss=loss, data=data)
            if loss is None or data is None:
                raise TypeError("GaussNewton of a model needs a loss and data: GaussNewton(model, loss, data).")
            module, self._point = model, None

            def objective() -> Objective:
                return model_objective("GaussNewton", module, loss, params, output=output, weight=weight, predicts=True)

            def tensors() -> Iterator[tuple[str, Tensor]]:
                return watched(module, loss, output)

            # The losses that are recognized are convex in the prediction.
            self.positive_semidefinite = recognize(loss) is not None
        else:
            (inputs,) = _arguments(loss_and_data, inputs=inputs)
            if inputs is None or not callable(model):
                raise TypeError(
                    "GaussNewton takes a model, a loss and data, or a function and its inputs, but got"
                    f" {type(model)} and {len(loss_and_data)} more."
                )
            func, data, self._point = model, (), inputs

            def objective() -> Objective:
                point = check_point("GaussNewton", func, self._point)
                return FunctionObjective(point, func, loss, "GaussNewton")

            def tensors() -> Iterator[tuple[str, Tensor]]:
                yield from tensors_of(func, self._point, check_point("GaussNewton", func, self._point))
                yield from captured(loss) if loss is not None else ()

            self.positive_semidefinite = loss is None
        super().__init__(objective, _term, data, settings, tensors)


def _term(objective: Objective, linearizer: Linearizer, batch: Any, reduction: Reduction, place: Place) -> OuterTerm:
    return OuterTerm(objective, linearizer, batch, partial(LossCurvature.of, objective, linearizer))


def _arguments(positional: tuple[Any, ...], **named: Any) -> list[Any]:
    """The values of parameters that may be given by position, in this order, or by name."""
    if len(positional) > len(named):
        raise TypeError(f"GaussNewton takes {', '.join(named)} by position here but got {len(positional)} values.")
    for name, _ in zip(named, positional, strict=False):
        if named[name] is not None:
            raise TypeError(f"GaussNewton got {name} by position and by name.")
    return [*positional, *list(named.values())[len(positional) :]]
