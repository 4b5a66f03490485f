"""Views of what decomposed operators return: a copy where its strides allow no view."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from hesse._linearize.program.passes.views import reshaped
from hesse._linearize.program.stand_ins import new_mode

aten = torch.ops.aten


def recorded(x: Tensor, shape: list[int]) -> list[object]:
    """The operators of a view, whose graph has the entries in their order."""
    with new_mode():
        like = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
        graph = make_fx(lambda x: aten.view.default(x, shape), decomposition_table={aten.view.default: reshaped})(like)
    assert torch.equal(graph(x), x.reshape(shape))
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def test_a_view_that_strides_do_not_allow_is_a_copy() -> None:
    assert recorded(torch.arange(12.0).reshape(3, 4).T, [12]) == [aten.clone.default, aten._unsafe_view.default]


def test_a_view_that_strides_allow_stays_one() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    assert recorded(x, [2, 6]) == [aten.view.default]
    assert recorded(x[:, :2], [3, 2, 1]) == [aten.view.default]
