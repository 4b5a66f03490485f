"""Scenarios that PyTorch cannot pull a batch of vectors back through, each with its reason.

A batched backward (``is_grads_batched``) runs the backward under vmap. Everything not named here must batch.
"""

from __future__ import annotations

UNBATCHABLE: dict[str, str] = {}
