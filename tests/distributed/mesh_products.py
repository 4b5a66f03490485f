"""Checks that ranks run: models that are sharded and tensor parallel, against torch alone, in float64."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.parallel import DistributedDataParallel

import hesse
from tests.distributed.parallel_products import (
    BLOCK,
    ENDS,
    MLP,
    NEXT,
    SEQUENCE,
    TOKENS,
    LanguageModel,
    loss,
    product,
    where_pytorch_can,
)
from tests.distributed.sharded_products import entries, require_products
from tests.distributed.shared_products import (
    LOSS,
    POINT,
    VECTORS,
    X,
    Y,
    close,
    dense,
    matrices,
    network,
    predicted,
    refused,
    require_same_bits,
)


@functools.cache
def both() -> DeviceMesh:
    """Two ranks for layers; of four, two teams with different data."""
    return init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("data", "layers"))


def part(*tensors: Tensor) -> Any:
    """The rows of this rank's team: seven and six of 13."""
    data = both()["data"]
    return tuple([tensor.tensor_split(data.size())[data.get_local_rank()] for tensor in tensors])


def sharded_parallel(model: nn.Module, plan: dict[str, Any], units: Sequence[nn.Module]) -> nn.Module:
    parallelize_module(model, both()["layers"], plan)
    if isinstance(model, LanguageModel) and model.is_tied:
        model.head.weight = model.words.weight
    for unit in units:
        fully_shard(unit, mesh=both()["data"])
    return fully_shard(model, mesh=both()["data"])


def made() -> nn.Module:
    """Each dimension of a mesh cuts parameters in its own way."""
    model = network()
    return sharded_parallel(model, MLP, [model[0]])


def batches() -> list[tuple[Tensor, Tensor]]:
    """Teams may have other numbers of batches."""
    x, y = part(X, Y)
    return [(x[:3], y[:3]), (x[3:], y[3:])] if both()["data"].get_local_rank() == 0 else [(x, y)]


def the_four_operators() -> None:
    for operator, expected in matrices():
        H = operator(made(), LOSS, batches())
        require_products(H, expected @ VECTORS)
        x = POINT.clone().requires_grad_()
        value = LOSS(predicted(x, X), Y)
        close(H.value, value.detach())
        gradient = H.flatten(H.gradient)
        close(gradient, torch.autograd.grad(value, x)[0][entries(H)])
        require_same_bits(H.value, H.whole(gradient))


def eigenvalues() -> None:
    top = hesse.eigsh(hesse.LossHessian(made(), LOSS, batches()), k=2, rng=0, tol=1e-8)
    close(top.values, torch.linalg.eigvalsh(dense()).flip(0)[:2], 1e-9)


def language_models() -> None:
    for plan, is_tied in ((BLOCK | ENDS, False), (SEQUENCE, True)):
        alone, model = LanguageModel(is_tied=is_tied), LanguageModel(is_tied=is_tied)
        sharded_parallel(model, plan, [model.block])
        n = sum(parameter.numel() for parameter in alone.parameters())
        vectors = torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        gradient, expected = product(alone, vectors[:, 0])
        H = hesse.LossHessian(model, loss, part(TOKENS, NEXT))
        close(H.flatten(H.gradient), gradient[entries(H)])
        require_products(H, expected.unsqueeze(1), vectors)


def points_that_move() -> None:
    """The model trains on, bit for bit as one that hesse has not seen."""
    x, y = part(X, Y)
    model, other = made(), made()
    for _ in range(2):
        H = hesse.LossHessian(model, LOSS, (x, y))
        H @ VECTORS[entries(H), 0]
        for net in (model, other):
            LOSS(net(x), y).backward()
            torch.optim.SGD(net.parameters(), lr=0.1).step()
            net.zero_grad()
    for trained, reference in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(trained.to_local(), reference.to_local())


def frozen_parameters() -> None:
    frozen = made()
    frozen[0].weight.requires_grad_(False)
    frozen[2].bias.requires_grad_(False)
    H = hesse.LossHessian(frozen, LOSS, batches())
    require_products(H, dense()[32:72, 32:72] @ VECTORS[32:72], VECTORS[32:72])


def refusals() -> None:
    x, y = part(X, Y)
    shifted = (x + both()["layers"].get_local_rank(), y)
    refused(ValueError, "evaluate the same batch", lambda: hesse.LossHessian(made(), LOSS, shifted))
    ignoring = parallelize_module(network(), both()["layers"], MLP)
    fully_shard(ignoring, mesh=both()["data"], ignored_params={ignoring[2].bias})
    refused(NotImplementedError, "'2.bias' is placed as", lambda: hesse.LossHessian(ignoring, LOSS, (x, y)))
    copied = DistributedDataParallel(parallelize_module(network(), both()["layers"], MLP), device_mesh=both()["data"])
    refused(NotImplementedError, "no tensor parallel model in Dist", lambda: hesse.LossHessian(copied, LOSS, (x, y)))


CHECKS = [
    where_pytorch_can(check)
    for check in (
        *(the_four_operators, eigenvalues, language_models, points_that_move),
        *(frozen_parameters, refusals),
    )
]
