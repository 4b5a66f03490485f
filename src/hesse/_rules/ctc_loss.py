r"""Connectionist temporal classification: :math:`-\log` of the probability of all alignments of a target.

With the target :math:`z` spread out by blanks, :math:`\alpha_t(s)` is the log probability of all beginnings of
alignments that stand at :math:`z_s` at time t:

.. math:: \alpha_t(s) = \log\bigl(e^{\alpha_{t-1}(s)} + e^{\alpha_{t-1}(s-1)} + [\text{skip}_s]\, e^{\alpha_{t-1}(s-2)}
   \bigr) + y_t(z_s),

where a place may be skipped if it is a blank between different labels. The loss is
:math:`-\log(e^{\alpha_T(|z|)} + e^{\alpha_T(|z|-1)})`. PyTorch's gradient by the log probabilities :math:`y` is that of
the loss plus :math:`e^y`, which is the gradient of their sum; behind a log softmax that adds nothing. The recursion is
differentiated step by step.

Source: Graves, Fernández, Gomez, Schmidhuber, "Connectionist Temporal Classification" (2006), section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hesse._rules.pullback import pullback
from hesse._rules.rule import rule

IMPOSSIBLE = -1e30
"""The logarithm of a probability of zero: not infinite, so that differences of two stay numbers."""

Lengths = Tensor | Sequence[int]


@rule("aten::_ctc_loss_backward")
@rule("aten::_ctc_loss_backward.Tensor")
def ctc_loss_backward(
    cotangent: Tensor,
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Lengths,
    target_lengths: Lengths,
    loss: Tensor,
    log_alpha: Tensor,
    blank: int,
    zero_infinity: bool,
) -> Tensor:
    """The gradient by the log probabilities, (t, n, classes), of cotangents (n)."""
    steps, count, _ = log_probs.shape
    inputs, lengths = _counts(input_lengths, log_probs), _counts(target_lengths, log_probs)
    # As long as the longest target, as the forward has seen.
    longest = log_alpha.shape[-1] // 2
    # Without an alignment the loss is infinite, and its gradient none, or by the user's word zero.
    weights = cotangent * torch.where(loss.isinf(), 0.0 if zero_infinity else torch.nan, 1.0).to(loss.dtype)

    def total(log_probs: Tensor) -> Tensor:
        within = torch.arange(steps, device=log_probs.device).unsqueeze(1) < inputs
        losses = _losses(log_probs, _padded(targets, lengths, longest, blank), inputs, lengths, blank)
        return losses + (log_probs.exp().sum(2) * within).sum(0)

    (gradient,) = pullback(total, [log_probs], [0], [weights.reshape(count)])
    assert gradient is not None
    return gradient


@rule("aten::_cudnn_ctc_loss")
@rule("aten::_cudnn_ctc_loss.Tensor")
def cudnn_ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Lengths,
    target_lengths: Lengths,
    blank: int,
    deterministic: bool,
    zero_infinity: bool,
) -> tuple[Tensor, None]:
    """The losses. What cuDNN makes beside them is their gradient, which is a constant to its second derivative."""
    inputs, lengths = _counts(input_lengths, log_probs), _counts(target_lengths, log_probs)
    padded = _padded(targets.to(log_probs.device), lengths, int(lengths.max()), blank)
    losses = _losses(log_probs, padded, inputs, lengths, blank)
    return (torch.where(losses > -IMPOSSIBLE / 2, 0, losses) if zero_infinity else losses), None


def _counts(lengths: Lengths, like: Tensor) -> Tensor:
    return torch.as_tensor(lengths, device=like.device, dtype=torch.long)


def _padded(targets: Tensor, lengths: Tensor, longest: int, blank: int) -> Tensor:
    """Targets one a row, (n, longest), with blanks behind the ends; they come so, or all in one line."""
    places = torch.arange(longest, device=targets.device).expand(len(lengths), longest)
    inside = places < lengths.unsqueeze(1)
    if targets.dim() == 1:
        places = places + (lengths.cumsum(0) - lengths).unsqueeze(1)
        labels = targets[torch.where(inside, places, 0)] if len(targets) else places
    else:
        labels = targets.gather(1, torch.where(inside, places, 0)) if longest else places
    return torch.where(inside, labels, blank).long()


def _losses(log_probs: Tensor, targets: Tensor, inputs: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """The loss of each sample."""
    blanks = torch.full_like(targets, blank)
    states = torch.stack((blanks, targets), 2).flatten(1)
    states = torch.cat((states, blanks.new_full((len(blanks), 1), blank)), 1)
    emitted = log_probs.gather(2, states.expand(len(log_probs), *states.shape))
    places = torch.arange(states.shape[1], device=states.device)
    can_skip = (places % 2 == 1) & (states != _shifted(states, 2, blank))
    alpha = torch.where(places < 2, emitted[0], IMPOSSIBLE)
    for step in range(1, len(emitted)):
        skipping = torch.where(can_skip, _shifted(alpha, 2, IMPOSSIBLE), IMPOSSIBLE)
        ways = torch.stack((alpha, _shifted(alpha, 1, IMPOSSIBLE), skipping))
        alpha = torch.where((inputs > step).unsqueeze(1), ways.logsumexp(0) + emitted[step], alpha)
    last = 2 * lengths.unsqueeze(1)
    ends = (places == last) | (places == last - 1)
    return -torch.where(ends, alpha, IMPOSSIBLE).logsumexp(1)


def _shifted(entries: Tensor, by: int, fill: float) -> Tensor:
    """Each entry at the place ``by`` further on."""
    return torch.nn.functional.pad(entries, (by, 0), value=fill)[:, : entries.shape[1]]
