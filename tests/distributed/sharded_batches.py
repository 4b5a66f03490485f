"""Checks that ranks run: many vectors at once share what products of sharded models gather; what is gathered, counted.

References are torch alone, on one process, in float64.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode

import hesse
from tests.distributed.sharded_products import NEXT, TOKENS, LanguageModel, entries, loss, product
from tests.distributed.shared_products import (
    LOSS,
    VECTORS,
    X,
    Y,
    close,
    dense,
    mine,
    network,
    refused,
    require_same_bits,
)

COLUMNS = 3
SEEN: list[torch.dtype] = []


def language_model(**words: Any) -> nn.Module:
    model = LanguageModel(**words)
    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)


def filled_up(parts: Sequence[nn.Module]) -> int:
    """How many elements parameters have that are filled up to equal pieces."""
    ranks = dist.get_world_size()
    return sum([-(-len(p) // ranks) * ranks * (p.numel() // len(p)) for part in parts for p in part.parameters()])


def collectives() -> None:
    """A product gathers a unit's parameters three times and adds up twice, and all else once.

    Vectors that go together gather the parameters themselves once, and make as many collectives as one does.
    """
    model = language_model()
    H = hesse.LossHessian(model, loss, mine(TOKENS, NEXT))
    vectors = torch.randn(H.shape[0], COLUMNS, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    here = entries(H)
    inside, everything = filled_up(model.blocks), filled_up([model])
    expected = torch.stack([product(LanguageModel(), v) for v in vectors.mT], 1)
    number = {"_allgather_base_": 3 * 2 + 1, "_reduce_scatter_base_": 2 * 2 + 1}
    for columns in (1, COLUMNS):
        # The first batch is compared with a single product.
        close(H @ vectors[here, :columns], expected[here, :columns])
        with Collectives() as counted:
            close(H @ vectors[here, :columns], expected[here, :columns])
        if columns > 1 and torch.__version__ >= (2, 15):
            # This release takes one of the gathers apart by vectors.
            assert sum(counted.number.values()) < 2 * sum(number.values())
            continue
        assert counted.number == number
        assert counted.elements == (2 + 3 * columns) * inside + 2 * columns * (everything - inside)
    assert H.explain().batching == "vmap"
    alone = hesse.LossHessian(model, loss, mine(TOKENS, NEXT), batching="loop")
    with Collectives() as counted:
        close(alone @ vectors[here], expected[here])
    assert counted.number == {name: COLUMNS * times for name, times in number.items()}


class Collectives(TorchDispatchMode):
    """How often parameters were gathered and added up, and how many elements that were."""

    def __init__(self) -> None:
        super().__init__()
        self.number: dict[str, int] = {}
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        if name in ("_allgather_base_", "_reduce_scatter_base_"):
            self.number[name] = self.number.get(name, 0) + 1
            self.elements += max(args[0].numel(), args[1].numel())
        return func(*args, **(kwargs or {}))


def units_that_are_called_again() -> None:
    """Within a batch they draw the same masks, and gather once for all vectors."""
    torch.manual_seed(1)
    rows = 65 * dist.get_world_size()
    x, y = torch.randn(rows, 4, dtype=torch.float64), torch.arange(rows) % 4
    model = nn.Sequential(
        *[nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 4)) for _ in range(8)]
    ).double()
    for block in model:
        fully_shard(block)
    fully_shard(model)
    kept, again = [
        (torch.manual_seed(3), hesse.LossHessian(model, LOSS, mine(x, y), memory=memory, batching=batching))[1]
        for memory, batching in ((None, "loop"), (1_100_000, "auto"))
    ]
    assert "evaluated again" in str(again.explain())
    vectors = torch.randn(again.length, COLUMNS, dtype=torch.float64)
    close(again @ vectors, kept @ vectors)
    assert again.explain().chunk > 1


class Told(nn.Module):
    """Notes the dtype of what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        SEEN.append(x.dtype)
        return x


def autocast_in_place_of_a_policy() -> None:
    """A unit that is called again outside of it computes as it did."""
    model = nn.Sequential(nn.Sequential(*network().float(), Told()))
    fully_shard(model[0])
    fully_shard(model)
    x, y = mine(X, Y)
    with torch.autocast("cpu", torch.bfloat16):
        H = hesse.LossHessian(model, LOSS, (x.float(), y), memory=1)
    here, evaluations = entries(H), len(SEEN)
    close((H @ VECTORS[here, 0].float()).double(), (dense() @ VECTORS[:, 0])[here], 0.05)
    assert len(SEEN) > evaluations
    assert set(SEEN) == {torch.bfloat16}


class Stubborn(Function):
    """A rank's own function, whose backward cannot be batched on the last one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        if dist.get_rank() == dist.get_world_size() - 1:
            # A batch has no numbers for Python.
            cotangent.sum().item()
        return cotangent


class Passing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Stubborn.apply(x)


def a_batch_that_one_rank_cannot_do() -> None:
    """None does, and vectors go one by one; where batches were asked for, all ranks say why not."""
    model = network()
    model.insert(1, Passing())
    for module in (model[0], model):
        fully_shard(module)
    H = hesse.LossHessian(model, LOSS, mine(X, Y))
    here = entries(H)
    close(H @ VECTORS[here], (dense() @ VECTORS)[here])
    assert H.explain().batching == "loop"
    asked = hesse.LossHessian(model, LOSS, mine(X, Y), batching="vmap")
    refused(RuntimeError, 'batching="vmap" was asked for, but a batch raises', lambda: asked @ VECTORS[here])


def minima() -> None:
    """Of a loss over all ranks, where each holds a part of the parameters: the solution of least squares."""
    x = torch.randn(11, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    y = (3 * x[:, :3]).cos()
    torch.manual_seed(0)
    model = fully_shard(nn.Linear(5, 3).double())
    before = [entry.to_local().clone() for entry in model.parameters()]
    found = hesse.minimize(hesse.LossHessian(model, nn.MSELoss(), mine(x, y)), tol=1e-10)
    ones = torch.ones(11, 1, dtype=torch.float64)
    expected = torch.linalg.lstsq(torch.cat([x, ones], 1), y).solution
    whole = torch.cat([found.x["weight"].full_tensor().mT, found.x["bias"].full_tensor()[None]])
    assert found.converged
    close(whole, expected, 1e-7)
    assert all(torch.equal(then, entry.to_local()) for then, entry in zip(before, model.parameters(), strict=True))
    # All ranks have whole parameters, and the same digits.
    torch.manual_seed(0)
    replicated = hesse.LossHessian(nn.Linear(5, 3).double(), nn.MSELoss(), mine(x, y), group=dist.group.WORLD)
    again = hesse.minimize(replicated, tol=1e-10)
    close(torch.cat([again.x["weight"].mT, again.x["bias"][None]]), expected, 1e-7)
    require_same_bits(*again.x.values())
    other = {name: entry + dist.get_rank() for name, entry in again.x.items()}
    refused(ValueError, "parameters", lambda: replicated.at(parameters=other))


CHECKS = [
    minima,
    collectives,
    units_that_are_called_again,
    autocast_in_place_of_a_policy,
    a_batch_that_one_rank_cannot_do,
]
