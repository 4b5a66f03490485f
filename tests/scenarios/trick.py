"""Scenarios where the double-backward trick (the backward of Jᵀw by w) has no number to give.

``hvp`` and ``Jacobian @ v`` are made with it; PyTorch's own ``hvp`` and ``jvp`` are as well.
"""

from __future__ import annotations

NOT_A_NUMBER = {
    "log_cumulative_sum_exp": "the backward of logcumsumexp takes the logarithm of its cotangent,"
    " and is NaN differentiated by it",
}
