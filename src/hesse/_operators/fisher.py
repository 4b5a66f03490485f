"""``Fisher``: the Fisher information of a model over data, as an operator."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from hesse._base import checks
from hesse._data.curvatures import Curved, OuterProducts, factor, loss_and_gradient
from hesse._data.likelihoods import Information, likelihood
from hesse._data.losses import Reduction, Weight
from hesse._data.models import Objective, Output, watched
from hesse._data.objective import Prediction
from hesse._data.options import DataKeywords, DataOptions
from hesse._data.parameters import Params
from hesse._linearize.engines import Linearize
from hesse._operators.data_operator import DataOperator
from hesse._operators.data_point import Place
from hesse._operators.probes import Rng, generator
from hesse._operators.sharing import ranks_of, seed_of
from hesse._operators.terms import OuterTerm


class Fisher(DataOperator):
    r"""The Fisher information matrix of a model over data, by its parameters, as an operator.

    .. math:: F = c \sum_n J_n^\top\, \mathbb{E}_{y \sim p(y | x_n)}\left[ s_n s_n^\top \right]\, J_n,
        \qquad p(y | x_n) \propto e^{-\ell(f_n, y)}, \quad s_n = \nabla_f\, \ell(f_n, y)

    where :math:`\ell` is the unreduced loss, :math:`J_n` the Jacobian of the prediction :math:`f_n`, and c what the
    reduction multiplies the sum of unreduced losses with: 1 for a sum, 1/N for a mean over N terms. So squared error
    means a normal distribution of variance ½, and F equals the Gauss-Newton matrix for it and for cross entropy.

    Args:
        model: any ``nn.Module``; it is left as it is.
        loss: one of PyTorch's cross entropy, negative log-likelihood, squared, absolute, or binary cross entropy with
            logits, as a function (also through ``functools.partial``) or module; called as ``loss(model(x), y)``.
        data: see :class:`hesse.LossHessian`.
        samples: None for the expectation itself; a number for the mean over so many draws of all targets, which are
            made once: the matrix stays the same.
        rng: seed, or NumPy or PyTorch generator, of the draws.
        params, reduction, weight, memory, engine, verify, expect, batching, randomness, batch_norm, progress: see
            :class:`hesse.LossHessian`.
        output: ``output(model, batch)`` returns (prediction, target); needed where a batch is no pair.

    Raises:
        TypeError, ValueError: as for :class:`hesse.LossHessian`; and where the distribution that the loss means is not
            known, or ``output`` is missing.

    Source:
        Martens, "New insights and perspectives on the natural gradient method", JMLR 21 (2020).

    Example:
        >>> import torch, hesse
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> hesse.Fisher(model, torch.nn.MSELoss(reduction="sum"), (x, torch.zeros(2, 1))).to_dense()
        tensor([[2., 0.],
                [0., 8.]])
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        data: Any,
        *,
        samples: int | None = None,
        rng: Rng = None,
        params: Params = None,
        weight: Weight | None = None,
        output: Output | None = None,
        **options: Unpack[DataKeywords],
    ) -> None:
        checks.wholes("Fisher", 1, optional=True, samples=samples)
        how = DataOptions.of("Fisher", options, weighted=weight is not None)
        model, ranks = ranks_of(model, how.group, "Fisher")
        seed = seed_of(ranks, model, "the draws of a Fisher", int(generator("Fisher", rng).integers(2**62)))

        def objective() -> Objective:
            made = Objective("Fisher", model, loss, params, output=output, weight=weight, predicts=True, ranks=ranks)
            if made.known is None:
                raise TypeError(
                    "Fisher needs the distribution of targets that the loss means, and knows those of PyTorch's cross"
                    " entropy, negative log-likelihood, squared, absolute and binary cross entropy with logits, but the"
                    f" loss is {loss!r}. Give one of these, with output= for (prediction, target)."
                )
            return made

        def term(
            objective: Objective, linearize: Linearize, batch: Any, reduction: Reduction, place: Place
        ) -> OuterTerm:
            def curved(prediction: Prediction) -> Curved:
                assert objective.known is not None
                value, gradient = loss_and_gradient(objective, prediction)
                (leaf,) = _lone(prediction)
                of = likelihood(objective.known, leaf, prediction.target, "Fisher")
                c = factor(objective, prediction, reduction)
                if samples is None:
                    return Curved(value, gradient, Information(of, c))
                draws = torch.Generator(leaf.device)
                draws.manual_seed(int(np.random.default_rng([seed, *place]).integers(2**62)))
                outer = OuterProducts([of.scores(samples, draws)], c / samples, of.dim)
                return Curved(value, gradient, outer)

            return OuterTerm.of(objective, linearize, batch, curved)

        super().__init__(objective, term, data, how, lambda: watched(model, loss, output), ranks)
        self.positive_semidefinite = True


def _lone(prediction: Prediction) -> list[Tensor]:
    if len(prediction.leaves) != 1 or not isinstance(prediction.target, Tensor):
        raise TypeError(
            "Fisher needs one tensor as prediction and one as target but got"
            f" {len(prediction.leaves)} floating-point tensors and a target of type {type(prediction.target)}. Give"
            " output=, a function of model and batch that returns (prediction, target)."
        )
    return prediction.leaves
