"""Second derivatives that PyTorch lacks; importing this installs them, and they hold where ``scope.put`` says so.

One rule a file. See docs/rules.md.
"""

from hesse._rules import (  # noqa: F401  # imported for what they install
    as_strided_scatter,
    attention,
    both_modes,
    collectives,
    control_flow,
    ctc_loss,
    decompositions,
    determinant,
    embedding_bag,
    flex_attention,
    foreach,
    hardsigmoid,
    ldexp,
    linear_cross_entropy,
    linearize,
    logaddexp,
    logcumsumexp,
    logit,
    mish,
    multi_margin_loss,
    multilabel_margin_loss,
    normalization,
    pairwise_distance,
    polar,
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

__all__ = ["RULES", "inside_transform"]
