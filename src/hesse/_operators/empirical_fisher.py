"""``EmpiricalFisher``: the sum of outer products of per-sample gradients over data, as an operator."""

from __future__ import annotations

from functools import partial
from typing import Any, Unpack

from torch import nn

from hesse._data.curvatures import Curved, OuterProducts, Sample, factor, loss_and_gradient, sample_dimension, samples
from hesse._data.losses import Reduction, Weight, recognize
from hesse._data.models import Objective, Output, watched
from hesse._data.objective import Prediction
from hesse._data.options import DataKeywords, DataOptions
from hesse._data.parameters import Params
from hesse._linearize.engines import Linearize
from hesse._operators.data_operator import DataOperator
from hesse._operators.data_point import Place
from hesse._operators.sharing import ranks_of
from hesse._operators.terms import OuterTerm


class EmpiricalFisher(DataOperator):
    r"""The empirical Fisher matrix of a model over data, by its parameters, as an operator.

    .. math:: E = c \sum_n g_n g_n^\top, \qquad g_n = \nabla_\theta\, \ell(f_\theta(x_n), y_n)

    where :math:`\ell` is the unreduced loss of a sample (for squared error the sum over its elements), and c what the
    reduction multiplies the sum of unreduced losses with: 1 for a sum, 1/N for a mean over N terms. The reduction
    counts once, not squared.

    Args:
        model: any ``nn.Module``; it is left as it is.
        loss: called as ``loss(model(x), y)``; the mean or sum of the losses of its rows.
        data: see :class:`hesse.LossHessian`.
        sample: what a sample is: a ``"row"``, an entry of the prediction's first dimension; or a ``"token"``, where
            only the classes (for PyTorch's cross entropy), or else the last dimension, belong to one sample. Classes
            without a batch are one sample.
        params, reduction, weight, memory, engine, verify, expect, batching, randomness, batch_norm, progress: see
            :class:`hesse.LossHessian`.
        output: ``output(model, batch)`` returns (prediction, target); needed where a batch is no pair.

    Raises:
        TypeError, ValueError: as for :class:`hesse.LossHessian`; and where ``output`` is missing.

    Source:
        Kunstner, Hennig and Balles, "Limitations of the empirical Fisher approximation", NeurIPS 2019.

    Example:
        >>> import torch, hesse
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(model.weight)
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0], [1.0]])
        >>> hesse.EmpiricalFisher(model, torch.nn.MSELoss(reduction="sum"), (x, y)).to_dense()
        tensor([[ 4.,  0.],
                [ 0., 16.]])
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        data: Any,
        *,
        sample: Sample = "row",
        params: Params = None,
        weight: Weight | None = None,
        output: Output | None = None,
        **options: Unpack[DataKeywords],
    ) -> None:
        if sample not in ("row", "token"):
            raise ValueError(f"sample given to EmpiricalFisher should be 'row' or 'token' but is {sample!r}.")
        how = DataOptions.of(
            "EmpiricalFisher", options, weighted=weight is not None, needs_reduction=recognize(loss) is None
        )
        model, ranks = ranks_of(model, how.group, "EmpiricalFisher")

        objective = partial(
            Objective, "EmpiricalFisher", model, loss, params, output=output, weight=weight, predicts=True, ranks=ranks
        )

        def term(
            objective: Objective, linearize: Linearize, batch: Any, reduction: Reduction, place: Place
        ) -> OuterTerm:
            def curved(prediction: Prediction) -> Curved:
                value, gradient = loss_and_gradient(objective, prediction)
                c = factor(objective, prediction, reduction)
                if any(leaf.dim() == 0 for leaf in prediction.leaves):
                    raise ValueError(
                        "EmpiricalFisher needs predictions with a row for each sample but got one without dimensions."
                    )
                number = len(prediction.leaves[0])
                if weight is None and objective.known is None and reduction == "mean" and prediction.terms != number:
                    raise ValueError(
                        f"EmpiricalFisher was given a loss of {prediction.terms:g} rows of targets and {number} of"
                        " predictions, so it cannot be told what it is a mean over. Give weight=, a function of a batch"
                        " that counts it."
                    )
                dim = sample_dimension(prediction.leaves[0], objective.known, sample)
                found = [samples(leaf, dim) for leaf in prediction.leaves]
                if len(set(found)) > 1:
                    raise ValueError(
                        f"EmpiricalFisher needs tensors of one prediction with an entry for each {sample} but got"
                        f" {' and '.join(map(str, dict.fromkeys(found)))}. Give output=, which returns those that"
                        " the loss reads."
                    )
                # The gradient of the reduced loss is c times that of the unreduced one.
                outer = OuterProducts([leaf.unsqueeze(0) / c for leaf in gradient], c, dim)
                return Curved(value, gradient, outer)

            return OuterTerm.of(objective, linearize, batch, curved)

        super().__init__(objective, term, data, how, lambda: watched(model, loss, output), ranks)
        self.positive_semidefinite = True
