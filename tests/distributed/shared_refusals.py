"""Checks that ranks run: what one of them does otherwise than the others, and what loaders deal out to them."""

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import hesse
from tests.distributed.shared_products import (
    LOSS,
    NETWORK,
    VECTORS,
    X,
    Y,
    close,
    dense,
    mine,
    network,
    refused,
    require_products,
)


def errors_of_one_rank() -> None:
    rank, last = dist.get_rank(), dist.get_world_size() - 1

    def failing(batch: Any) -> float:
        if rank == last:
            raise LookupError("no weight here")
        return float(len(batch[0]))

    refused(
        LookupError,
        "no weight here",
        lambda: hesse.LossHessian(NETWORK, LOSS, mine(X, Y), group=dist.group.WORLD, weight=failing),
    )
    model = network()
    H = hesse.LossHessian(model, LOSS, mine(X, Y), group=dist.group.WORLD)
    if rank == last:
        with torch.no_grad():
            model[0].bias.add_(1)
    refused(hesse.StalePointError, "'0.bias' has changed", lambda: H @ VECTORS[:, 0])
    refused(hesse.StalePointError, "'0.bias' has changed", lambda: hesse.eigsh(H, k=1))
    with torch.no_grad():
        model[0].bias.copy_(network()[0].bias)
    require_products(H.at(), dense())

    def stop(progress: hesse.Progress) -> bool:
        if rank == last:
            raise ArithmeticError("stopped here")
        return False

    refused(ArithmeticError, "stopped here", lambda: hesse.eigsh(H.at(), k=1, callback=stop))
    shift = float(rank == last)
    other = network()
    with torch.no_grad():
        other[2].bias.add_(shift)
    refused(
        ValueError, f"the same parameters and buffers on all ranks, but rank {last} has others",
        lambda: hesse.LossHessian(other, LOSS, mine(X, Y), group=dist.group.WORLD),
    )  # fmt: skip


def other_questions_on_one_rank() -> None:
    rank, last = dist.get_rank(), dist.get_world_size() - 1
    H = hesse.LossHessian(network(), LOSS, mine(X, Y), group=dist.group.WORLD)
    own = VECTORS[:, 0] if rank == last else VECTORS[:, 1]
    refused(ValueError, f"was given another vector on rank {last}", lambda: H @ own)
    width = 2 if rank == last else 3
    refused(RuntimeError, "Ranks do different things at the same time", lambda: H @ VECTORS[:, :width])
    refused(RuntimeError, "Ranks do different things at the same time", lambda: H.rows([rank]))
    refused(ValueError, f"eigsh has k 3 on rank 0 but 2 on rank {last}", lambda: hesse.eigsh(H, k=width, rng=0))
    refused(ValueError, "has rng", lambda: hesse.trace(H, rng=rank))
    refused(
        RuntimeError,
        "the start of trace on rank",
        lambda: hesse.eigsh(H, k=1, rng=0) if rank == last else hesse.trace(H, rng=0),
    )
    refused(ValueError, "has a callback", lambda: hesse.eigsh(H, k=1, rng=0, callback=print if rank == last else None))
    refused(
        ValueError,
        "has reduction None on rank 0 but 'mean'",
        lambda: hesse.LossHessian(
            NETWORK, LOSS, mine(X, Y), group=dist.group.WORLD, reduction="mean" if rank == last else None
        ),
    )
    require_products(H, dense())


def other_models_on_one_rank() -> None:
    """A mode, a layer, a loss, parameters of other names: none of them changes a number that ranks compare."""
    here, last = dist.get_rank() == dist.get_world_size() - 1, dist.get_world_size() - 1

    def made(model: nn.Module, loss: Any = LOSS, **options: Any) -> Any:
        return lambda: hesse.LossHessian(model, loss, mine(X, Y), group=dist.group.WORLD, **options)

    evaluated = network().train(not here)
    refused(ValueError, f"has model.training True on rank 0 but False on rank {last}", made(evaluated))
    rectified = network()
    rectified[1] = nn.ReLU() if here else nn.Tanh()
    refused(ValueError, f"has model.1 'Tanh' on rank 0 but 'ReLU' on rank {last}", made(rectified))
    longer = nn.Sequential(*network(), *[nn.Identity()] * here)
    refused(ValueError, f"has model.3 None on rank 0 but 'Identity' on rank {last}", made(longer))
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1 * here)
    refused(ValueError, "has loss.label_smoothing 0.0 on rank 0 but 0.1", made(network(), smoothed))
    weighted = nn.CrossEntropyLoss(weight=torch.ones(4, dtype=torch.float64) + here)
    refused(ValueError, "same parameters and buffers", made(network(), weighted))
    with torch.autocast("cpu", torch.bfloat16, enabled=here):
        refused(ValueError, "has precision None on rank 0 but 'autocast computes in bfloat16'", made(network()))
    equal = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()
    equal[1].load_state_dict(equal[0].state_dict())
    for entry in equal.state_dict().values():
        dist.broadcast(entry, 0)
    refused(ValueError, "has parameters", made(equal, params=f"{int(here)}.*"))


def wrappers_with_a_forward_of_their_own() -> None:
    """Are refused, where only the module within would be evaluated."""

    class Doubling(DistributedDataParallel):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    hooked = DistributedDataParallel(network())
    hooked.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    for model, what in ((Doubling(network()), "a forward"), (hooked, "hooks")):
        refused(NotImplementedError, f"the wrapper has {what}", lambda: hesse.LossHessian(model, LOSS, mine(X, Y)))  # noqa: B023  # called at once
    model = DistributedDataParallel(network())
    model.module.register_forward_hook(lambda module, inputs, outputs: outputs.clone())
    close(hesse.LossHessian(model, LOSS, mine(X, Y)) @ VECTORS, dense() @ VECTORS)


def loaders() -> None:
    data = TensorDataset(X, Y)
    for size, shuffle in ((2, False), (3, True), (7, True), (1, False)):
        sampler = DistributedSampler(data, shuffle=shuffle)
        loader = DataLoader(data, batch_size=size, sampler=sampler)
        # Without the rows that it repeats.
        close(hesse.LossHessian(DistributedDataParallel(network()), LOSS, loader) @ VECTORS, dense() @ VECTORS)
    few = TensorDataset(X[:1], Y[:1])
    one = DataLoader(few, sampler=DistributedSampler(few))
    assert hesse.LossHessian(network(), LOSS, one, group=dist.group.WORLD).value == LOSS(network()(X[:1]), Y[:1])

    class Other(DistributedSampler):
        pass

    refused(
        ValueError,
        "repeats",
        lambda: hesse.LossHessian(
            network(), LOSS, DataLoader(data, batch_size=2, sampler=Other(data, num_replicas=5)), group=dist.group.WORLD
        ),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        H = hesse.LossHessian(network(), LOSS, [(X, Y)], group=dist.group.WORLD)
    said = [str(warning.message) for warning in caught if "its rows count twice" in str(warning.message)]
    assert len(said) == (dist.get_rank() == 0)
    close(H @ VECTORS, dense() @ VECTORS)
    # Rows in another order on each rank: some would count twice, and others not.
    for key in ("epoch", "seed"):
        sampler = DistributedSampler(data, shuffle=True, drop_last=True)
        setattr(sampler, key, dist.get_rank())
        refused(
            ValueError,
            f"the DistributedSampler's {key} 0 on rank 0 but 1",
            lambda: hesse.LossHessian(network(), LOSS, DataLoader(data, sampler=sampler), group=dist.group.WORLD),  # noqa: B023  # called at once
        )


CHECKS = [
    errors_of_one_rank,
    other_questions_on_one_rank,
    other_models_on_one_rank,
    wrappers_with_a_forward_of_their_own,
    loaders,
]
