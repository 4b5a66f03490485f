"""Random structures of tensors for hypothesis, and the ways in which a vector can fail to fit one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

# The same examples in every run, and no deadline that a busy machine could miss.
REPRODUCIBLE = settings(derandomize=True, deadline=None, max_examples=25)

SHAPES = [(), (0,), (1,), (3,), (2, 3), (1, 1), (2, 0)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@dataclass
class Layer:
    """A dataclass that holds structures."""

    weight: Any
    bias: Any


def _tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)


TENSORS = st.builds(_tensor, st.sampled_from(SHAPES), st.sampled_from(DTYPES), st.integers(0, 100))
KEYS = st.one_of(st.text("abc.", min_size=1, max_size=2), st.integers(0, 3))


def _containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(children, min_size=1, max_size=3),
        st.lists(children, min_size=1, max_size=3).map(tuple),
        st.dictionaries(KEYS, children, min_size=1, max_size=3),
        st.builds(Layer, children, children),
    )


STRUCTURES = st.recursive(TENSORS, _containers, max_leaves=5)


def leaves_of(tree: Any) -> Iterator[Tensor]:
    """The tensors of a structure, by recursion over its containers."""
    if isinstance(tree, Tensor):
        yield tree
    for child in _children(tree):
        yield from leaves_of(child)


def mapped(function: Callable[..., Any], *trees: Any) -> Any:
    """A structure of the results of ``function`` on the tensors at the same place of like structures."""
    first = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    if isinstance(first, dict):
        return {key: mapped(function, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, list | tuple):
        return type(first)(mapped(function, *parts) for parts in zip(*trees, strict=True))
    return type(first)(*(mapped(function, *parts) for parts in zip(*map(_children, trees), strict=True)))


def assert_alike(actual: Any, expected: Any) -> None:
    """The same containers, keys, shapes, dtypes and values."""
    assert type(actual) is type(expected)
    if isinstance(expected, Tensor):
        torch.testing.assert_close(actual, expected)
        return
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
    for left, right in zip(_children(actual), _children(expected), strict=True):
        assert_alike(left, right)


def _children(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return list(tree.values())
    if isinstance(tree, list | tuple):
        return list(tree)
    if is_dataclass(tree):
        return [getattr(tree, field.name) for field in fields(tree)]
    return []


MISFITS: dict[str, Callable[[Any], Any]] = {
    "shape": lambda tree: _with_first_leaf(tree, lambda leaf: leaf.new_ones((*leaf.shape, 2))),
    "device": lambda tree: _with_first_leaf(tree, lambda leaf: leaf.to("meta")),
    "complex": lambda tree: _with_first_leaf(tree, lambda leaf: leaf.to(torch.complex64)),
    "type": lambda tree: _with_first_leaf(tree, lambda leaf: 1.0),
    "extra_level": lambda tree: {"unknown": tree},
    "extra_entry": lambda tree: [tree, torch.ones(())],
    "nothing": lambda tree: [],
}


def _with_first_leaf(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    first = next(leaves_of(tree))
    return mapped(lambda leaf: change(leaf) if leaf is first else leaf, tree)
