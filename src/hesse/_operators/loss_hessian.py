"""``LossHessian``: the Hessian of a model's loss over data, as an operator."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any, Unpack

from torch import nn

from hesse._data.losses import Weight
from hesse._data.models import Call, Objective, Output, watched
from hesse._data.options import DataKeywords, DataOptions
from hesse._data.parameters import Params
from hesse._operators.data_operator import DataOperator
from hesse._operators.data_point import DataPoint
from hesse._operators.mixed import MixedBlock
from hesse._operators.shared_point import SharedPoint
from hesse._operators.sharing import ranks_of
from hesse._operators.terms import HessianTerm


class LossHessian(DataOperator):
    r"""The Hessian of the mean (or summed) loss of a model over data, by its parameters, as an operator.

    .. math:: H = \nabla_\theta^2 \, \frac{\sum_b w_b\, \ell_b(\theta)}{\sum_b w_b}

    where :math:`\ell_b` is the loss of batch b, and :math:`w_b` how many samples or tokens it is the mean of: so a
    ragged last batch and masked tokens give the Hessian of the true mean, that of one large batch.

    Args:
        model: any ``nn.Module``; it is left as it is. Of one that ``fully_shard`` or ``parallelize_module`` cut up,
            flat vectors hold the entries of this rank, and structured vectors DTensors.
        loss: for a batch that is a pair (x, y) called as ``loss(model(x), y)``, for any other batch (a dict, a tensor,
            a longer tuple) as ``loss(model, batch)``; None for Hugging Face's ``model(**batch).loss``. Returns a
            tensor with a single element.
        data: one batch (a tensor, tuple or mapping), or a DataLoader, list or other iterable of batches that can be
            gone over again. Batches in CPU memory are copied to the model's device.
        params: which parameters: all that require gradients; a name, glob or layer's name (``"blocks.*.weight"``); a
            layer; a predicate of name and parameter; or a list of these. Tied ones count once. Those that require no
            gradients, or are not used, have zeros.
        reduction: whether the loss of a batch is the ``"mean"`` or the ``"sum"`` of its rows' losses. When left out
            the loss says it, or the two halves of the first batch do; either way they are compared.
        weight: a function of a batch that returns how many terms its loss is the mean of. When left out: targets that
            are not ignored, for PyTorch's and Hugging Face's own losses, and else rows.
        call: ``call(model, loss, batch)`` returns a batch's loss, in place of the calls above.
        output: ``output(model, batch)`` returns (prediction, target), and a batch's loss is ``loss(prediction,
            target)``.
        memory: bytes or a size such as ``"2GiB"`` that kept batches and a product may take; half of what is available
            when left out. As many batches as fit stay linearized between products, and too large ones are cut up.
        engine: as for :class:`hesse.Hessian`; one program serves all batches of a layout, at all points.
        verify: as for :class:`hesse.Hessian`; at a point, a program is compared on the first batch that it serves.
        expect: as for :class:`hesse.Hessian`.
        batching: ``"loop"``, ``"vmap"`` or ``"auto"``, as for :class:`hesse.Hessian`.
        randomness: ``"fixed"`` draws dropout's masks (and any random numbers of PyTorch) once for each batch;
            ``"refuse"`` raises where any are drawn.
        batch_norm: BatchNorm in training makes the loss over several batches no sum over samples: ``"refuse"`` raises,
            ``"per batch"`` takes the sum of the batches' own losses.
        progress: show a bar for each pass over the data, on a terminal.
        group: the process group of ranks that each have a part of the data, and the same model; left out for a model in
            ``DistributedDataParallel`` or of ``fully_shard``, whose group it is. Ranks of a tensor parallel model have
            the same data. Making the operator and asking it is then a collective call, and results are the same on all
            ranks.

    Attributes:
        value, gradient: the loss and its gradient, found in the same pass as the first product.
        shape, dtype, device: of flat vectors, at least float32.

    Raises:
        TypeError, ValueError: a batch is none, data can be read only once or is empty, no parameter matches, the loss
            returns no scalar, or the losses of batches cannot be put together.
        StalePointError: at a product, when a parameter, a buffer or the mode of the model has changed.
        RuntimeError: at a product, when the data is not the same as in an earlier pass.
        CaptureError: at the first product, value or gradient, when ``engine="compiled"`` cannot take the model or the
            loss. The sentence names the operator or the line.

    Source:
        Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994).

    Example:
        >>> import torch, hesse
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
        >>> data = torch.utils.data.TensorDataset(torch.randn(10, 4), torch.randint(2, (10,)))
        >>> loader = torch.utils.data.DataLoader(data, batch_size=4)
        >>> H = hesse.LossHessian(model, torch.nn.CrossEntropyLoss(), loader)
        >>> H.unflatten(H @ torch.randn(23))["2.bias"].shape
        torch.Size([2])
        >>> H.block("2.weight", "0.bias").shape
        (6, 3)
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        data: Any,
        *,
        params: Params = None,
        weight: Weight | None = None,
        call: Call | None = None,
        output: Output | None = None,
        **options: Unpack[DataKeywords],
    ) -> None:
        how = DataOptions.of("LossHessian", options, weighted=weight is not None)
        model, ranks = ranks_of(model, how.group, "LossHessian")

        objective = partial(
            Objective, "LossHessian", model, loss, params, call=call, output=output, weight=weight, ranks=ranks
        )

        super().__init__(
            objective,
            lambda objective, linearize, batch, reduction, place: HessianTerm.of(objective, linearize, batch),
            data,
            how,
            lambda: watched(model, loss, call, output),
            ranks,
        )

    def data_block(self, part: Hashable = 0) -> MixedBlock:
        r"""The mixed block :math:`\partial^2 L / \partial\theta\, \partial z`: how the gradient moves with the data.

        With it the influence of data on the parameters of a minimum is :math:`-H^{-1} (\partial^2 L / \partial\theta\,
        \partial z)`.

        Args:
            part: which part z of each batch: an index of a pair or tuple (0 is x), or a key of a mapping.

        Returns:
            An operator of shape (n, m), where m counts the elements of z over all data; a vector over the data is flat,
            or a list with one tensor for each batch. Over ranks these are the batches of all, rank after rank.

        Raises:
            KeyError, TypeError: a batch has no such part, or it is no floating-point tensor.
        """
        self._require_whole("data_block()")
        assert isinstance(self._point, DataPoint | SharedPoint)
        return MixedBlock(self._point, part)
