"""Second derivatives that PyTorch lacks; importing this installs them, and they hold where ``scope.put`` says so.

One rule a file. See docs/rules.md.
"""

from hesse._rules import (
    as_strided_scatter,
    attention,
    control_flow,
    ctc_loss,
    determinant,
    embedding_bag,
    flex_attention,
    hardsigmoid,
    linear_cross_entropy,
    logaddexp,
    logit,
    mish,
    multi_margin_loss,
    multilabel_margin_loss,
    normalization,
    pairwise_distance,
    power,
    recurrent,
    removable_singularities,
    scattering,
    segment_reduce,
    sparse,
    special_functions,
    vanishing,
    weight_norm,
)
from hesse._rules.rule import RULES
from hesse._rules.scope import inside_transform

__all__ = [
    "RULES",
    "as_strided_scatter",
    "attention",
    "control_flow",
    "ctc_loss",
    "determinant",
    "embedding_bag",
    "flex_attention",
    "hardsigmoid",
    "inside_transform",
    "linear_cross_entropy",
    "logaddexp",
    "logit",
    "mish",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "normalization",
    "pairwise_distance",
    "power",
    "recurrent",
    "removable_singularities",
    "scattering",
    "segment_reduce",
    "sparse",
    "special_functions",
    "vanishing",
    "weight_norm",
]
