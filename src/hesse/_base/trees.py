"""Structures (pytrees of tensors): their leaves in flat order, the path of each, and the way back.

A structure is a tensor, or tuples, lists, dicts and dataclasses of structures; flat order is the order of
leaves. Two structures are alike when their leaves have the same paths, so a dict may come in another order.
This is the only file that knows PyTorch's pytrees.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

# PyTorch has no public pytree module; torch.func is built on this one, so containers registered there agree.
import torch.utils._pytree as _pytree
from torch import Tensor

Key = Hashable
Path = tuple[Key, ...]


class Spec(NamedTuple):
    """A structure without its leaves.

    ``rebuild`` puts leaves, given in flat order, back; ``paths`` names each leaf; ``length`` is the number of
    entries of an outermost tuple, which is splatted into a function, and None for everything else. ``kinds`` is equal
    where the containers are of the same classes; ``beside`` names what objects of dataclasses hold beside their fields.
    """

    rebuild: Callable[[Sequence[Any]], Any]
    paths: tuple[Path, ...]
    length: int | None
    kinds: Hashable = None
    beside: tuple[tuple[Path, Any], ...] = ()


def _first(leaves: Sequence[Any]) -> Any:
    return leaves[0]


LONE = Spec(rebuild=_first, paths=((),), length=None)


def flatten(tree: Any) -> tuple[list[Any], Spec]:
    """The leaves of ``tree`` in flat order, and its spec; whatever is no container counts as a leaf."""
    if isinstance(tree, Tensor):
        return [tree], LONE
    if type(tree) is tuple and all([isinstance(entry, Tensor) for entry in tree]):
        # The common case of the contract functions, kept off the general and slower path.
        return list(tree), Spec(tuple, tuple([(i,) for i in range(len(tree))]), len(tree), tuple)
    if type(tree) is dict and all([isinstance(entry, Tensor) for entry in tree.values()]):
        # The parameters of a network, as they come with every product.
        keys = list(tree)
        return list(tree.values()), Spec(
            lambda leaves: dict(zip(keys, leaves, strict=True)), tuple([(key,) for key in keys]), None, dict
        )
    return _flatten_containers(tree)


def leaves(tree: Any) -> Iterator[Any]:
    """The leaves of ``tree`` in flat order, without their paths, which take ten times as long."""
    kind = type(tree)
    if kind is tuple or kind is list or kind is dict:
        # As nearly all containers are. PyTorch's way takes several times as long.
        for entry in tree.values() if kind is dict else tree:
            if isinstance(entry, Tensor):
                yield entry
            else:
                yield from leaves(entry)
        return
    if isinstance(tree, Tensor):
        yield tree
        return
    for leaf in _pytree.tree_iter(tree):
        if _is_unregistered_dataclass(leaf):
            yield from leaves(_fields(leaf))
        else:
            yield leaf


def _flatten_containers(tree: Any) -> tuple[list[Any], Spec]:
    try:
        pairs, treespec = _pytree.tree_flatten_with_path(tree)
    except ValueError:  # a container was registered with PyTorch without names for its entries, as it may be
        pairs = _numbered(tree)
        treespec = _pytree.tree_structure(tree)
    leaves: list[Any] = []
    paths: list[Path] = []
    parts: list[tuple[slice, Callable[[Sequence[Any]], Any]]] = []
    kinds: list[Hashable] = [treespec]
    beside: list[tuple[Path, Any]] = []
    for key_path, node in pairs:
        inner_leaves, inner = _flatten_dataclass(node) if _is_unregistered_dataclass(node) else ([node], LONE)
        parts.append((slice(len(leaves), len(leaves) + len(inner_leaves)), inner.rebuild))
        leaves += inner_leaves
        outer = tuple([_key(entry) for entry in key_path])
        paths += [outer + path for path in inner.paths]
        kinds.append(inner.kinds)
        beside += [(outer + path, value) for path, value in inner.beside]

    def rebuild(new_leaves: Sequence[Any]) -> Any:
        return _pytree.tree_unflatten([inner(new_leaves[part]) for part, inner in parts], treespec)

    length = len(tree) if isinstance(tree, tuple) else None
    return leaves, Spec(rebuild, tuple(paths), length, tuple(kinds), tuple(beside))


def _numbered(tree: Any, above: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    """Leaves with their key paths, taken level by level; entries without names are numbered."""

    def is_below(node: Any) -> bool:
        return node is not tree

    try:
        level = _pytree.tree_flatten_with_path(tree, is_leaf=is_below)[0]
    except ValueError:
        children = _pytree.tree_leaves(tree, is_leaf=is_below)
        level = [((_pytree.SequenceKey(i),), child) for i, child in enumerate(children)]
    if len(level) == 1 and level[0][1] is tree:
        return [(above, tree)]
    return [pair for path, child in level for pair in _numbered(child, above + path)]


def is_dataclass_instance(node: Any) -> bool:
    """Whether ``node`` is an object of a dataclass, and not the class itself."""
    # torch.compile of PyTorch 2.11 cannot ask None.
    return node is not None and dataclasses.is_dataclass(node) and not isinstance(node, type)


def _is_unregistered_dataclass(node: Any) -> bool:
    return is_dataclass_instance(node) and type(node) not in _pytree.SUPPORTED_NODES


def _flatten_dataclass(node: Any) -> tuple[list[Any], Spec]:
    fields = _fields(node)
    leaves, inner = flatten(fields)
    # Without its fields, so that a spec keeps no tensors.
    bare = _with_fields(node, dict.fromkeys(fields))
    others = [((name,), value) for name, value in getattr(node, "__dict__", {}).items() if name not in fields]

    def rebuild(new_leaves: Sequence[Any]) -> Any:
        return _with_fields(bare, inner.rebuild(new_leaves))

    return leaves, Spec(rebuild, inner.paths, None, (type(node), inner.kinds), (*inner.beside, *others))


def _fields(node: Any) -> dict[str, Any]:
    return {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}


def _with_fields(node: Any, fields: dict[str, Any]) -> Any:
    # Not through the constructor: a dataclass may compute or refuse fields in its own __init__.
    fresh = copy.copy(node)
    for name, value in fields.items():
        object.__setattr__(fresh, name, value)
    return fresh


def _key(entry: Any) -> Key:
    """The plain key or index inside one of pytree's key objects (MappingKey, SequenceKey, GetAttrKey)."""
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            key: Key = getattr(entry, attribute)
            return key
    return str(entry)


def at_path(tree: Any, path: Path) -> Any:
    """The part of ``tree`` that a path of keys, indices and field names leads to."""
    for key in path:
        has_fields = dataclasses.is_dataclass(tree) or isinstance(tree, tuple)
        tree = getattr(tree, key) if has_fields and isinstance(key, str) else tree[key]
    return tree


def path_name(path: Path) -> str:
    """``(0, "weight")`` as ``[0]['weight']``, the way a user would index it; empty for a lone tensor."""
    return "".join([f"[{key!r}]" for key in path])


def dotted_name(path: Path, lone: str = "value") -> str:
    """``(0, "weight")`` as ``0.weight``, for files and tables; ``lone`` for a lone tensor."""
    return ".".join([str(key) for key in path]) or lone


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """``tree`` with ``function`` applied to its leaves."""

    def mapped(leaf: Any) -> Any:
        if _is_unregistered_dataclass(leaf):
            return _with_fields(leaf, map_leaves(function, _fields(leaf)))
        return function(leaf)

    return _pytree.tree_map(mapped, tree)


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """``tree`` with ``function`` applied to its tensors and everything else as it was."""
    return map_leaves(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def is_treespec(value: Any) -> bool:
    """Whether a value is PyTorch's own description of a structure."""
    return isinstance(value, _pytree.TreeSpec)
