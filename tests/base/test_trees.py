"""Structures: flattening and the way back, paths and their names."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree

from hesse._base import trees

Named = namedtuple("Named", ["weight", "bias"])


@dataclass
class Layer:
    weight: Any
    bias: Any = None


@dataclass(frozen=True)
class Computed:
    """Computes a field from another, and refuses to be assigned to."""

    side: Tensor
    area: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "area", self.side**2)


A, B, C = torch.tensor(1.0), torch.tensor([2.0]), torch.zeros(0)
CASES: dict[str, tuple[Any, list[Any], list[trees.Path]]] = {
    "tensor": (A, [A], [()]),
    "number": (3, [3], [()]),
    "none": (None, [None], [()]),
    "tuple": ((A, B), [A, B], [(0,), (1,)]),
    "tuple_of_one": ((A,), [A], [(0,)]),
    "empty_tuple": ((), [], []),
    "list": ([A, B], [A, B], [(0,), (1,)]),
    "dict": ({"b": A, "a": B}, [A, B], [("b",), ("a",)]),
    "dict_of_integers": ({2: A}, [A], [(2,)]),
    "ordered_dict": (OrderedDict(b=A, a=B), [A, B], [("b",), ("a",)]),
    "named_tuple": (Named(A, B), [A, B], [("weight",), ("bias",)]),
    "dataclass": (Layer(A, B), [A, B], [("weight",), ("bias",)]),
    "nest": (([A, {"x": B}], C), [A, B, C], [(0, 0), (0, 1, "x"), (1,)]),
    "nest_in_dataclass": (Layer([A, (B,)], {"x": C}), [A, B, C], [("weight", 0), ("weight", 1, 0), ("bias", "x")]),
    "dataclass_in_nest": ({"x": [Layer(A, B)]}, [A, B], [("x", 0, "weight"), ("x", 0, "bias")]),
    "dataclass_in_dataclass": (Layer(Layer(A, B), C), [A, B, C], [("weight", "weight"), ("weight", "bias"), ("bias",)]),
    "tensor_and_number": ((A, 2), [A, 2], [(0,), (1,)]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.private
def test_flatten_gives_leaves_and_paths_in_flat_order(case: str) -> None:
    tree, leaves, paths = CASES[case]
    actual, spec = trees.flatten(tree)
    assert len(actual) == len(leaves)
    assert all(left is right for left, right in zip(actual, leaves, strict=True))
    assert list(spec.paths) == paths
    assert all(left is right for left, right in zip(trees.leaves(tree), leaves, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_rebuild_puts_new_leaves_into_the_same_containers(case: str) -> None:
    tree, _, _ = CASES[case]
    leaves, spec = trees.flatten(tree)
    replaced = [object() for _ in leaves]
    rebuilt = spec.rebuild(replaced)
    assert type(rebuilt) is type(replaced[0] if case in ("tensor", "number", "none") else tree)
    again, again_spec = trees.flatten(rebuilt)
    assert again == replaced
    assert again_spec.paths == spec.paths
    assert again_spec.length == spec.length


@pytest.mark.parametrize("case", CASES)
def test_length_is_that_of_an_outermost_tuple_and_of_nothing_else(case: str) -> None:
    tree, _, _ = CASES[case]
    assert trees.flatten(tree)[1].length == (len(tree) if isinstance(tree, tuple) else None)


def test_a_dataclass_is_rebuilt_without_its_constructor() -> None:
    leaves, spec = trees.flatten(Computed(torch.tensor(3.0)))
    assert [leaf.item() for leaf in leaves] == [3.0, 9.0]
    rebuilt = spec.rebuild([torch.tensor(1.0), torch.tensor(2.0)])
    assert isinstance(rebuilt, Computed)
    assert rebuilt.area.item() == 2.0


def test_a_dataclass_type_is_a_leaf_and_not_a_structure() -> None:
    assert trees.flatten(Layer)[0] == [Layer]


class Box:
    """A container that PyTorch is told of, with or without names for its entries."""

    def __init__(self, *inside: Any) -> None:
        self.inside = inside


@pytest.fixture(params=[True, False], ids=["named", "unnamed"])
def _box(request: pytest.FixtureRequest) -> Iterator[None]:
    _pytree.register_pytree_node(
        Box,
        lambda box: (list(box.inside), None),
        lambda inside, _: Box(*inside),
        flatten_with_keys_fn=(
            (lambda box: ([(_pytree.SequenceKey(i), entry) for i, entry in enumerate(box.inside)], None))
            if request.param
            else None
        ),
    )
    yield
    _pytree._deregister_pytree_node(Box)


@pytest.mark.usefixtures("_box")
@pytest.mark.private
def test_a_container_registered_with_pytorch_is_a_structure_with_or_without_names() -> None:
    leaves, spec = trees.flatten({"x": [Box(A, Layer(B, Box(C)))], "y": A})
    assert all(left is right for left, right in zip(leaves, [A, B, C, A], strict=True))
    assert all(left is right for left, right in zip(trees.leaves(spec.rebuild(leaves)), leaves, strict=True))
    assert spec.paths == (("x", 0, 0), ("x", 0, 1, "weight"), ("x", 0, 1, "bias", 0), ("y",))
    rebuilt = spec.rebuild([1, 2, 3, 4])
    box = rebuilt["x"][0]
    assert isinstance(box, Box)
    assert (box.inside[0], box.inside[1].weight, box.inside[1].bias.inside, rebuilt["y"]) == (1, 2, (3,), 4)


@pytest.mark.usefixtures("_box")
def test_an_empty_registered_container_has_no_leaves() -> None:
    leaves, spec = trees.flatten(Box())
    assert leaves == []
    assert isinstance(spec.rebuild([]), Box)


def test_a_default_dict_stays_one() -> None:
    tree = defaultdict(list, a=A)
    rebuilt = trees.map_tensors(torch.zeros_like, tree)
    assert rebuilt.default_factory is list


@pytest.mark.parametrize(
    ("path", "name", "dotted"),
    [
        ((), "", "value"),
        ((0,), "[0]", "0"),
        ((0, "weight"), "[0]['weight']", "0.weight"),
        (("layer.0", 1), "['layer.0'][1]", "layer.0.1"),
    ],
)
def test_paths_have_a_name_to_index_by_and_one_for_tables(path: trees.Path, name: str, dotted: str) -> None:
    assert trees.path_name(path) == name
    assert trees.dotted_name(path) == dotted


def test_dotted_name_of_a_lone_tensor_can_be_chosen() -> None:
    assert trees.dotted_name((), lone="inputs") == "inputs"


def test_map_tensors_leaves_everything_else_as_it_was() -> None:
    tree = {"x": [A, "text", None], "y": (3, B)}
    mapped = trees.map_tensors(lambda tensor: tensor + 1, tree)
    assert mapped["x"][0].item() == 2.0
    assert mapped["x"][1:] == ["text", None]
    assert mapped["y"][0] == 3
    assert mapped["y"][1].item() == 3.0
