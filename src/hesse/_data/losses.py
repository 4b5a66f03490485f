"""PyTorch's own losses, recognized: what their mean is over, and whether they are convex."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hesse._base import trees

Reduction = Literal["mean", "sum"]
Kind = Literal["cross_entropy", "nll", "mse", "bce_logits", "l1"]

_KINDS: dict[Any, Kind] = {
    nn.CrossEntropyLoss: "cross_entropy",
    F.cross_entropy: "cross_entropy",
    nn.NLLLoss: "nll",
    F.nll_loss: "nll",
    nn.MSELoss: "mse",
    F.mse_loss: "mse",
    nn.BCEWithLogitsLoss: "bce_logits",
    F.binary_cross_entropy_with_logits: "bce_logits",
    nn.L1Loss: "l1",
    F.l1_loss: "l1",
}


_OPTIONS: dict[str, Any] = {
    "reduction": "mean",
    "weight": None,
    "pos_weight": None,
    "ignore_index": -100,
    "label_smoothing": 0.0,
}


class Known(NamedTuple):
    """A recognized loss of a prediction and a target.

    ``options`` are the keywords of its functional form, with their defaults where none are given.
    """

    kind: Kind
    options: dict[str, Any]

    @property
    def reduction(self) -> str:
        """``"mean"``, ``"sum"`` or ``"none"``."""
        return str(self.options["reduction"])

    def counted(self, shape: tuple[int, ...], target: Tensor) -> float:
        """How many terms the mean of a batch is over, whose prediction has a shape: targets that are not ignored (by
        weight), or elements."""
        if self.kind in ("mse", "l1"):
            return float(math.prod(np.broadcast_shapes(shape, tuple(target.shape))))
        if self.kind == "bce_logits":
            return float(target.numel())
        if target.dtype.is_floating_point:  # probabilities of classes
            return float(target.numel() // target.shape[class_dimension(target)])
        not_ignored = target != self.options["ignore_index"]
        weight = self.options["weight"]
        return float(not_ignored.sum() if weight is None else weight[target[not_ignored]].sum())


def recognize(loss: Any) -> Known | None:
    """A loss of PyTorch, as a function, with keywords fixed by ``functools.partial``, or as a module; else None."""
    if isinstance(loss, nn.Module):
        # A hook, or a forward of the object's own, makes another loss of it.
        is_changed = loss._forward_hooks or loss._forward_pre_hooks or "forward" in vars(loss)
        kind = None if is_changed else _KINDS.get(type(loss))
        if kind is None:
            return None
        # Not among its buffers: class weights may be a parameter.
        given = {name: getattr(loss, name) for name in _OPTIONS if hasattr(loss, name)}
        return Known(kind, _OPTIONS | trees.map_tensors(Tensor.detach, given))
    keywords: dict[str, Any] = {}
    while isinstance(loss, functools.partial):
        if loss.args:
            return None
        keywords = loss.keywords | keywords
        loss = loss.func
    # An object with fields, as of a dataclass, may have no hash.
    kind = _KINDS.get(loss) if callable(loss) and isinstance(loss, Hashable) else None
    if kind is None or keywords.get("size_average") is not None or keywords.get("reduce") is not None:
        return None
    return Known(kind, _OPTIONS | {name: value for name, value in keywords.items() if name in _OPTIONS})


def class_dimension(prediction: Tensor) -> int:
    """Where a prediction of cross entropy has its classes, counted from the end: second, or first of a lone sample."""
    return 1 - prediction.dim() if prediction.dim() > 1 else -1


def reduction_of(loss: Any) -> str | None:
    """What a loss says of its reduction, if it does; who calls one without a reduction reduces by himself."""
    known = recognize(loss)
    said = getattr(loss, "reduction", None) if known is None else known.reduction
    if said == "none":
        return None
    # A mean over rows has another name in some losses.
    return "mean" if said == "batchmean" else said if isinstance(said, str) else None


def hugging_face_count(model: nn.Module, batch: Any) -> float | None:
    """How many labels the loss is over that a Hugging Face model works out itself; None where it cannot be told."""
    labels = batch.get("labels")
    if not isinstance(labels, Tensor):
        return None
    if labels.dtype.is_floating_point or labels.dim() < 2:
        return float(labels.shape[0]) if labels.dim() else 1.0
    # A causal model predicts each token from those before it, so the first label of a row is not used.
    name = getattr(getattr(model, "loss_function", None), "__name__", "")
    counted = labels[..., 1:] if name == "ForCausalLMLoss" else labels
    return float((counted != -100).sum())


def masks_unevenly(batch: Any) -> bool:
    """Whether some labels are −100, the mark of those to leave out, in some rows more than in others."""
    labels = batch.get("labels") if isinstance(batch, Mapping) else batch
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.dim() == 0:
        return False
    masked = (labels == -100).flatten(start_dim=1).sum(1) if labels.dim() > 1 else (labels == -100)
    return bool((masked != masked[:1]).any())


Weight = Callable[[Any], float | Tensor]
"""How many terms (samples, tokens) the loss of a batch is the mean of."""
