"""Scattering by an index that is shorter than its source, and products of what is scattered.

PyTorch's gradient by the source has the index's shape, and it raises. Here the source is cut to what is scattered,
which is a view with a derivative. PyTorch's tangent of products is wrong, without a word, and where two factors of a
product are zero its double backward raises, or is wrong inside of ``torch.func.grad``: there they are written out.

Source: https://docs.pytorch.org/docs/stable/generated/torch.Tensor.scatter_add_.html,
https://docs.pytorch.org/docs/stable/generated/torch.Tensor.scatter_reduce_.html,
https://docs.pytorch.org/docs/stable/generated/torch.Tensor.index_reduce_.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from hesse._base.forward_mode import is_on
from hesse._rules.batches import has_values
from hesse._rules.both_modes import multiplied
from hesse._rules.scope import inside_transform, intercept, operator_of


def _kernel(operator: Any, in_place: bool) -> Callable[..., Tensor]:
    def scatter(x: Tensor, dim: int, index: Tensor, src: Tensor, *others: Any, **options: Any) -> Tensor:
        if src.requires_grad and index.dim() == src.dim() and index.shape != src.shape:
            src = src[tuple([slice(size) for size in index.shape])]
        if others == ("prod",):
            # Of ``index_reduce``, each entry of the index has a slice of the source.
            along = [-1 if i == dim % src.dim() else 1 for i in range(src.dim())]
            places = index if index.dim() == src.dim() else index.reshape(along).expand_as(src)
            if is_on() or _has_two_zeros(x, dim, places, src):
                # What is written into may not be what the product's derivative keeps.
                product = _product(x.clone() if in_place else x, dim, places, src, **options)
                return x.copy_(product) if in_place else product
        scattered: Tensor = operator(x, dim, index, src, *others, **options)
        return scattered

    return scatter


def _has_two_zeros(x: Tensor, dim: int, index: Tensor, src: Tensor) -> bool:
    """Whether two zeros are scattered to one place; where a transform batches them, they may be."""
    if not torch.is_grad_enabled() or not has_values(src):
        return torch.is_grad_enabled() and inside_transform()
    zeros = torch.zeros_like(x, dtype=torch.int64).scatter_add(dim, index, (src == 0).to(torch.int64))
    return bool((zeros > 1).any())


def _product(x: Tensor, dim: int, index: Tensor, src: Tensor, *, include_self: bool = True) -> Tensor:
    """The products of the numbers at each place, one factor for each entry of the index."""
    if x.dim() == 0:
        return _product(x[None], 0, index.reshape(1), src.reshape(1), include_self=include_self)[0]
    index = index.movedim(dim, -1)
    src = src[tuple([slice(size) for size in index.movedim(-1, dim).shape])].movedim(dim, -1)
    base = x.movedim(dim, -1)
    here = index.unsqueeze(-2) == torch.arange(x.shape[dim], device=x.device).unsqueeze(-1)
    factors, hit = multiplied(torch.where(here, src.unsqueeze(-2), 1)), here.any(-1)
    # Entries beyond the index keep their numbers.
    beyond = [length for i in reversed(range(x.dim() - 1)) for length in (0, base.shape[i] - index.shape[i])]
    factors, hit = pad(factors, [0, 0, *beyond], value=1), pad(hit, [0, 0, *beyond], value=False)
    product = base * factors if include_self else torch.where(hit, factors, base)
    return product.movedim(-1, dim)


for _name in ("scatter_add", "scatter.src", "scatter_reduce.two", "index_reduce"):
    _packet, _, _overload = _name.partition(".")
    for _full in (f"aten::{_name}", f"aten::{_packet}_.{_overload}".rstrip(".")):
        intercept(_full, _kernel(operator_of(_full), _full.partition(".")[0].endswith("_")))
