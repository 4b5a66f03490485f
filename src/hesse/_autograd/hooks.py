"""Whether a function may have registered hooks, which change gradients on their way without being seen in a graph."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.utils.hooks import RemovableHandle

_COUNT = "_hesse_hooks"


def noted(leaf: Tensor) -> Tensor:
    """The leaf, on which it stands how many hooks had been registered when it was made."""
    # Tensors, nodes of a graph and modules count together: a module's backward hook registers one in each forward.
    setattr(leaf, _COUNT, RemovableHandle.next_id)
    return leaf


def may_exist(leaves: Iterable[Tensor]) -> bool:
    """Whether a hook was registered since these leaves were made; also where that cannot be told."""
    return any([getattr(leaf, _COUNT, None) != RemovableHandle.next_id for leaf in leaves])
