"""Checks that two ranks run: what is refused there, and that the remedies are right."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import hesse
from tests.capabilities import differentiates_gathers_twice

GENERATOR = torch.Generator().manual_seed(1)
X, Y = torch.randn(13, 4, dtype=torch.float64, generator=GENERATOR), torch.arange(13) % 4
V = torch.randn(76, dtype=torch.float64, generator=GENERATOR)
LOSS = nn.CrossEntropyLoss()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)).double()


NAMES = [name for name, _ in network().named_parameters()]
LENGTHS = [parameter.numel() for parameter in network().parameters()]


def named(flat: Tensor) -> dict[str, Tensor]:
    parts = zip(NAMES, flat.split(LENGTHS), network().parameters(), strict=True)
    return {name: part.reshape(parameter.shape) for name, part, parameter in parts}


def loss_of_all(flat: Tensor) -> Tensor:
    return LOSS(functional_call(network(), named(flat), (X,)), Y)


POINT = torch.cat([parameter.detach().reshape(-1) for parameter in network().parameters()])
# By torch alone, of all data, without any rank.
DENSE = torch.autograd.functional.hessian(loss_of_all, POINT)
DENSE = (DENSE + DENSE.mT) / 2


def mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (2,))


def mine() -> tuple[Tensor, Tensor]:
    """Seven rows of one rank and six of the other."""
    rank = dist.get_rank()
    return X.tensor_split(2)[rank], Y.tensor_split(2)[rank]


def share() -> float:
    return len(mine()[0]) / len(X)


def refused(kind: type[Exception], part: str, compute: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=re.escape(part)):
        compute()


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


class Summed(hesse.Operator):
    """The products of all ranks, each weighted by its share of the data: what a user can write today."""

    symmetric = True

    def __init__(self, local: hesse.LossHessian) -> None:
        self.local, self.shape, self.dtype, self.device = local, local.shape, local.dtype, local.device

    def matmat(self, V: Tensor) -> Tensor:
        product = (self.local.matmat(V) * share()).contiguous()
        dist.all_reduce(product)
        return product


def fsdp() -> None:
    model = network()
    fully_shard(model[0], mesh=mesh())
    fully_shard(model, mesh=mesh())
    at = {name: parameter.detach() for name, parameter in model.named_parameters()}
    ones = {name: torch.ones_like(tensor) for name, tensor in at.items()}
    # Operators over data know such models: sharded_products.py.
    refused(
        NotImplementedError,
        "model of FSDP",
        lambda: hesse.vhp(lambda p: LOSS(functional_call(model, p, (mine()[0],)), mine()[1]), at, ones),
    )
    LOSS(model(X), Y).backward()
    alone = network()
    LOSS(alone(X), Y).backward()
    for parameter, expected in zip(model.parameters(), alone.parameters(), strict=True):
        close(parameter.grad.full_tensor(), expected.grad)


def tensor_parallel() -> None:
    """In a function; operators over data: parallel_products.py."""
    model = parallelize_module(network(), mesh(), {"2": ColwiseParallel(output_layouts=Replicate())})
    at = {name: parameter.detach() for name, parameter in model.named_parameters()}
    v = {
        name: distribute_tensor(tensor.contiguous(), mesh(), [Shard(0)]) if name.startswith("2") else tensor
        for name, tensor in named(V).items()
    }

    def product() -> dict[str, Any]:
        return hesse.vhp(lambda p: LOSS(functional_call(model, p, (X,)), Y), at, v)[1]

    if not differentiates_gathers_twice(mesh()):
        refused(hesse.NoDerivativeError, "cannot be differentiated once more", product)
        return
    whole = [entry.full_tensor() if isinstance(entry, DTensor) else entry for entry in product().values()]
    close(torch.cat([entry.reshape(-1) for entry in whole]), DENSE @ V)


def data_parallel() -> None:
    model = DistributedDataParallel(network())
    refused(
        NotImplementedError,
        "DistributedDataParallel of 2 ranks",
        lambda: hesse.LossHessian(nn.Sequential(model), LOSS, mine()),
    )
    close(hesse.LossHessian(model, LOSS, mine()) @ V, DENSE @ V)
    refused(
        NotImplementedError, "does not reduce over ranks", lambda: hesse.vhp(lambda x: model(x).square().sum(), X, X)
    )
    H = Summed(hesse.LossHessian(model.module, LOSS, mine()))
    close(H @ V, DENSE @ V)


def questions() -> None:
    H = Summed(hesse.LossHessian(network(), LOSS, mine()))
    for question in (
        lambda: hesse.eigsh(H, k=2),
        lambda: hesse.trace(H, max_products=20),
        lambda: hesse.diagonal(H, max_products=20),
        lambda: hesse.nystrom(H, 3),
    ):
        refused(ValueError, "rng=None, which draws other random vectors on each rank", question)
    close(hesse.eigsh(H, k=2, rng=0).values, torch.linalg.eigvalsh(DENSE).flip(0)[:2], 1e-8)
    b = torch.ones(76, dtype=torch.float64)
    close(
        hesse.solve(H.shift(1.0), b, tol=1e-11).solution,
        torch.linalg.solve(DENSE + torch.eye(76, dtype=torch.float64), b),
        1e-9,
    )
    path = Path(tempfile.mkdtemp()) / "eigsh.safetensors"
    refused(NotImplementedError, "a checkpoint, but its products", lambda: hesse.eigsh(H, k=2, rng=0, checkpoint=path))
    # Ranks that run for themselves may draw and write as they like.
    alone = hesse.as_operator(DENSE)
    own = Path(tempfile.mkdtemp()) / "own.safetensors"
    close(hesse.eigsh(alone, k=2, checkpoint=own).values, torch.linalg.eigvalsh(DENSE).flip(0)[:2], 1e-6)


def loaders() -> None:
    data = TensorDataset(X, Y)
    for drop_last in (False, True):
        loader = DataLoader(data, batch_size=2, sampler=DistributedSampler(data, drop_last=drop_last))
        if drop_last:
            assert hesse.LossHessian(network(), LOSS, loader).value.isfinite()
        else:
            refused(ValueError, "repeats 1 of 13 rows", lambda: hesse.LossHessian(network(), LOSS, loader))  # noqa: B023  # called at once


def plain_dtensors() -> None:
    """The one way to exact products with sharded tensors, each rank with its own data, where PyTorch has it."""

    def loss(shards: dict[str, Any]) -> Tensor:
        whole = {name: shard.full_tensor(grad_placements=[Partial()]) for name, shard in shards.items()}
        return share() * LOSS(functional_call(network(), whole, (mine()[0],)), mine()[1])

    at, v = [
        {name: distribute_tensor(tensor.contiguous(), mesh(), [Shard(0)]) for name, tensor in named(flat).items()}
        for flat in (POINT, V)
    ]
    if not differentiates_gathers_twice(mesh()):
        refused(hesse.NoDerivativeError, "cannot be differentiated once more", lambda: hesse.vhp(loss, at, v))
        return
    products = [hesse.Hessian(loss, at) @ v, hesse.vhp(loss, at, v)[1]]
    for product in products:
        close(torch.cat([product[name].full_tensor().reshape(-1) for name in NAMES]), DENSE @ V)


CHECKS = [fsdp, tensor_parallel, data_parallel, questions, loaders, plain_dtensors]
