"""``GaussNewton``: the Gauss-Newton matrix of a model's loss over data, or of a plain function, as an operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from hesse._autograd.arguments import check_point
from hesse._autograd.thread_state import untraced
from hesse._base import checks, trees
from hesse._base.several_ranks import refusing_models
from hesse._base.space import Space
from hesse._data.curvatures import LossCurvature
from hesse._data.losses import Reduction, Weight, recognize
from hesse._data.models import Objective, Output, watched
from hesse._data.objective import Counted, Prediction, require_scalar
from hesse._data.options import DataKeywords, DataOptions
from hesse._data.parameters import Params
from hesse._linearize.engines import Engines, Linearize
from hesse._operators.data_operator import DataOperator
from hesse._operators.data_point import Place
from hesse._operators.function_point import FunctionPoint
from hesse._operators.point import PointOperator
from hesse._operators.sharing import at_point, ranks_of
from hesse._operators.terms import OuterTerm
from hesse._ranks.group import Ranks
from hesse._sparse.given import Pattern


class GaussNewton(DataOperator):
    r"""The (generalized) Gauss-Newton matrix of a loss over data, by a model's parameters, as an operator.

    .. math:: G = \frac{\sum_b w_b\, J_b^\top L_b J_b}{\sum_b w_b}

    where :math:`J_b` is the Jacobian of the predictions for batch b and :math:`L_b` the Hessian of the batch's loss by
    them. ``GaussNewton(func, inputs, loss=…)`` is the same for the output of a plain function, as inverse problems
    have it: :math:`J^\top L J`, or :math:`J^\top J` of a residual r when the loss :math:`\frac12 \lVert r \rVert^2` is
    left out.

    Args:
        model: any ``nn.Module``; it is left as it is. Or a function of the inputs that returns real tensors.
        loss_or_inputs: of a model the loss, of a function its inputs; each also goes by its own name.
        data: of a model; see :class:`hesse.LossHessian`.
        loss: called as ``loss(model(x), y)``. For a function of inputs, called as ``loss(output)``.
        inputs: the point of a plain function: a tensor or a structure of them; an outermost tuple is splatted.
        params, reduction, weight, memory, engine, verify, expect, batching, randomness, batch_norm, progress: see
            :class:`hesse.LossHessian`.
        output: ``output(model, batch)`` returns (prediction, target); needed where a batch is no pair.

    Attributes:
        value, gradient: the loss and its gradient.

    Raises:
        TypeError, ValueError: as for :class:`hesse.LossHessian`; and where ``output`` is missing, or the loss depends
            on parameters beside the prediction.

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
        loss_or_inputs: Any = None,
        data: Any = None,
        *,
        loss: Any = None,
        inputs: Any = None,
        params: Params = None,
        weight: Weight | None = None,
        output: Output | None = None,
        **options: Unpack[DataKeywords],
    ) -> None:
        how = DataOptions.of("GaussNewton", options, weighted=weight is not None)
        self._func = None
        if isinstance(model, nn.Module):
            loss = _either("loss", loss_or_inputs, loss)
            if loss is None or data is None or inputs is not None:
                raise TypeError("GaussNewton of a model needs a loss and data: GaussNewton(model, loss, data).")
            module, ranks = ranks_of(model, how.group, "GaussNewton")
            # The losses that are recognized are convex in the prediction.
            self.positive_semidefinite = recognize(loss) is not None

            objective = partial(
                Objective, "GaussNewton", module, loss, params, output=output, weight=weight, predicts=True, ranks=ranks
            )

            super().__init__(objective, _term, data, how, lambda: watched(module, loss, output), ranks)
            return
        inputs = _either("inputs", loss_or_inputs, inputs)
        if data is not None:
            raise TypeError("GaussNewton of a function takes inputs by position here but got 2 values.")
        if inputs is None or not callable(model):
            raise TypeError(
                "GaussNewton takes a model, a loss and data, or a function and its inputs, but got"
                f" {type(model)} {'and' if inputs is not None else 'without'} inputs."
            )
        checks.functions("GaussNewton", optional=True, loss=loss)
        self._func, self._inputs, self._loss = model, inputs, loss
        self.ranks = Ranks.of(how.group)
        self.positive_semidefinite = loss is None
        reached = model if loss is None else {"func": model, "loss": loss}
        untraced(self._move)(None, Engines(how, reached), None)

    def _move(self, where: Any, engines: Engines, earlier: Any) -> None:
        if self._func is None:
            super()._move(where, engines, earlier)
            return
        if where is not None:
            what = "data" if where.data is not None else "parameters"
            raise TypeError(f"at({what}=) is for a GaussNewton over data, but this one is of a function. Call at().")
        func, loss, inputs = self._func, self._loss, self._inputs
        at = check_point("GaussNewton", func, inputs)

        def loss_of(prediction: Prediction, leaves: Sequence[Tensor]) -> Tensor:
            if loss is None:
                return torch.stack([0.5 * leaf.square().sum() for leaf in leaves]).sum()
            checked = refusing_models("GaussNewton", loss)
            return require_scalar(checked(prediction.rebuilt(leaves)), "GaussNewton")

        def term(linearize: Linearize) -> OuterTerm:
            jacobian = linearize("prediction", lambda x: _prediction(at.call(x)), at.leaves, inputs)
            jacobian.outputs = [output.contiguous() for output in jacobian.outputs]
            predicted: Prediction = jacobian.aux._replace(leaves=jacobian.outputs)
            self._predicted = predicted
            return OuterTerm(jacobian, at.leaves, LossCurvature.of(loss_of, linearize, predicted))

        def pattern() -> Pattern:
            # It loads SciPy's sparse matrices, which other questions do not need.
            from hesse._sparse.detection import hessian_pattern, jacobian_pattern_of_map

            def prediction_at(x: tuple[Tensor, ...]) -> tuple[list[Tensor], Any]:
                return _prediction(at.call(x))

            memory = engines.options.memory
            rows: Pattern = jacobian_pattern_of_map("GaussNewton", prediction_at, at, func, inputs, memory)
            if loss is None:
                return (rows.T @ rows).tocsr()
            predicted = self._predicted
            between = hessian_pattern(lambda *x: loss_of(predicted, x), tuple(predicted.leaves), memory)
            found: Pattern = (rows.T @ between @ rows).tocsr()
            return found

        self._pattern_of_function = pattern
        variables = Space(at.leaves, at.spec, "GaussNewton")
        point = at_point("GaussNewton", self.ranks, lambda: FunctionPoint(variables, engines, term, at, "at()"))
        PointOperator.__init__(self, point, point.whole, variables, variables, symmetric=True)

    def _find_pattern(self) -> Pattern | None:
        # Of several ranks each has a function of its own, and the patterns would differ.
        alone = self._func is not None and self.ranks is None
        return self._pattern_of_function() if alone else super()._find_pattern()


def _prediction(output: Any) -> tuple[list[Tensor], Prediction]:
    """The output of a plain function as a prediction."""
    leaves, spec = trees.flatten(output)
    for leaf in leaves:
        if not (isinstance(leaf, Tensor) and leaf.dtype.is_floating_point):
            what = leaf.dtype if isinstance(leaf, Tensor) else type(leaf)
            raise TypeError(
                f"The function given to GaussNewton should return real floating-point tensors but gave {what}."
            )
    return leaves, Prediction([], list(range(len(leaves))), [None] * len(leaves), spec, Counted())


def _term(objective: Objective, linearize: Linearize, batch: Any, reduction: Reduction, place: Place) -> OuterTerm:
    curve = partial(LossCurvature.of, objective.loss_of, linearize)
    return OuterTerm.of(objective, linearize, batch, curve)


def _either(name: str, by_position: Any, by_name: Any) -> Any:
    """What was given by position or by name."""
    if by_position is not None and by_name is not None:
        raise TypeError(f"GaussNewton got {name} by position and by name.")
    return by_name if by_position is None else by_position
