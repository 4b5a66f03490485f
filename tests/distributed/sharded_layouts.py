"""Checks that ranks run: the ways in which ``fully_shard`` cuts up a model, and modules that cannot be its units."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.func import functional_call

import hesse
from tests.distributed.sharded_products import NEXT, TOKENS, LanguageModel, entries, loss, product, require_products
from tests.distributed.shared_products import LOSS, VECTORS, X, Y, close, mine, network

N = sum(parameter.numel() for parameter in LanguageModel().parameters())
V = torch.randn(N, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (dist.get_world_size(),))


def blocks(model: LanguageModel) -> None:
    for block in model.blocks:
        fully_shard(block, mesh=mesh())
    fully_shard(model, mesh=mesh())


def nested(model: LanguageModel) -> None:
    fully_shard(model.blocks[0].wide, mesh=mesh())
    blocks(model)


def grouped(model: LanguageModel) -> None:
    fully_shard([model.blocks[0], model.norm], mesh=mesh())
    fully_shard(model, mesh=mesh())


def ignored(model: LanguageModel) -> None:
    plain = {model.places, model.blocks[1].mix.bias}
    fully_shard(model.blocks[1], mesh=mesh(), ignored_params=plain)
    fully_shard(model, mesh=mesh(), ignored_params=plain)


def along_columns(model: LanguageModel) -> None:
    ranks = dist.get_world_size()

    def placement(parameter: Tensor) -> Shard:
        return Shard(1) if parameter.dim() == 2 and parameter.shape[1] % ranks == 0 else Shard(0)

    for block in model.blocks:
        fully_shard(block, mesh=mesh(), shard_placement_fn=placement)
    fully_shard(model, mesh=mesh(), shard_placement_fn=placement)


def in_part(model: LanguageModel) -> None:
    fully_shard(model.blocks[1], mesh=mesh())


def replicated(model: LanguageModel) -> None:
    both = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("copies", "pieces"))
    for block in model.blocks:
        fully_shard(block, mesh=both)
    fully_shard(model, mesh=both)


def checkpointed(model: LanguageModel) -> None:
    model.blocks[0].checkpointed = True
    blocks(model)


def require_products_of(cuts: Sequence[Callable[[LanguageModel], None]]) -> None:
    expected = product(LanguageModel(), V[:, 0]).unsqueeze(1)
    for cut in cuts:
        model = LanguageModel()
        cut(model)
        H = hesse.LossHessian(model, loss, mine(TOKENS, NEXT))
        require_products(H, expected, V)
        if cut is ignored:
            assert not isinstance(H.gradient["places"], DTensor)


def copies_of_pieces() -> None:
    """With one rank for each piece on two ranks, and two on four."""
    require_products_of([replicated])


def parts_and_recomputations() -> None:
    """Some parameters are whole on each rank; activations are computed again."""
    require_products_of([ignored, checkpointed])


def other_layouts() -> None:
    """However else the model is cut up: tied, nested, grouped, in part, along another dimension."""
    require_products_of([blocks, nested, grouped, along_columns, in_part])


def adapters() -> None:
    """The words are constants, and one matrix of each block is a variable."""
    model = LanguageModel()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(("wide.weight", "places")))
    ignored(model)
    names = ["places", "blocks.0.wide.weight", "blocks.1.wide.weight"]
    few = V[: 20 + 2 * 36]
    expected = product(LanguageModel(), few[:, 0], names).unsqueeze(1)
    for memory in (None, 1):
        require_products(hesse.LossHessian(model, loss, mine(TOKENS, NEXT), memory=memory), expected, few)


class Awkward(nn.Module):
    """Two layers, the first of which may do what keeps it from being a unit."""

    def __init__(self, habit: str) -> None:
        super().__init__()
        layer, _, self.last = network()
        self.habit, self.seen = habit, []
        self.first = nn.Sequential(InPlace() if habit == "writes" else nn.Tanh(), layer)

    def forward(self, x: Tensor) -> Tensor:
        x = 1.5 * x + 0 * self.last.bias.sum()
        if self.habit == "reads":
            x = x + self.first[1].weight.sum()
        hidden = self.first(x)
        if self.habit == "leaks":
            hidden = hidden + self.seen.pop()
        return self.last(hidden.tanh())


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.tanh_()


def units_that_cannot_be() -> None:
    """Parameters that are read elsewhere, activations that leave by another way, arguments that are written into."""

    def leaking(model: Awkward) -> None:
        model.first[1].register_forward_hook(lambda module, given, output: model.seen.append(output.sin()))

    for habit in ("none", "reads", "leaks", "writes"):
        alone, model = Awkward(habit), Awkward(habit)
        for net in (alone, model):
            if habit == "leaks":
                leaking(net)
        leaves = {name: p.detach().clone().requires_grad_() for name, p in alone.named_parameters()}
        value = LOSS(functional_call(alone, leaves, (X,)), Y)
        gradient = torch.cat(
            [part.reshape(-1) for part in torch.autograd.grad(value, [*leaves.values()], create_graph=True)]
        )
        parts = torch.autograd.grad(gradient @ VECTORS[:, 0], [*leaves.values()])
        fully_shard(model.first)
        fully_shard(model)
        for memory in (None, 1):
            H = hesse.LossHessian(model, LOSS, mine(X, Y), memory=memory)
            here = entries(H)
            close(H @ VECTORS[here, 0], torch.cat([part.reshape(-1) for part in parts])[here])
            # What cannot be a unit is gathered when an evaluation begins.
            assert ("in full" in str(H.explain())) == (habit != "none")


CHECKS = [copies_of_pieces, parts_and_recomputations, other_layouts, adapters, units_that_cannot_be]
