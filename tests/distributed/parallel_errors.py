"""Checks that ranks run: an error of one rank is raised on all, where they compute the layers of a model together."""

import functools
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import hesse
from tests.distributed.mesh_products import batches, sharded_parallel
from tests.distributed.parallel_products import mesh, parallel, where_pytorch_can
from tests.distributed.sharded_products import entries, require_products
from tests.distributed.shared_products import LOSS, VECTORS, X, Y, dense, network, refused


def errors_of_one_rank() -> None:
    """Are raised on all before they wait in a layer, also where hesse gathers nothing."""
    rank, last = dist.get_rank(), dist.get_world_size() - 1
    x = X.clone()
    for memory in (None, 1):
        model = parallel()
        H = hesse.LossHessian(model, LOSS, [(x[:5], Y[:5]), (x[5:], Y[5:])], params="0.*", memory=memory)
        require_products(H, dense()[:40, :40] @ VECTORS[:40], VECTORS[:40])
        v = VECTORS[entries(H), 0]
        if memory and rank == last:
            x[7] += 1
        if memory:
            refused(RuntimeError, "is not what it was in an earlier pass", functools.partial(H.__matmul__, v))
        if rank == 0:
            model[0].bias.to_local().data.add_(1)
        refused(hesse.StalePointError, "'0.bias' has changed", functools.partial(H.__matmul__, v))


FAILING = {"0": ColwiseParallel(), "3": RowwiseParallel()}


def require_errors_within_a_layer(cut: Callable[[nn.Module], nn.Module], data: Any) -> None:
    """An error of one rank's, while the others wait in a layer, is raised on all, and they may go on."""
    left, last = [10**9], dist.get_rank() == dist.get_world_size() - 1

    def may_fail(x: Tensor) -> Tensor:
        left[0] -= 1
        if last and left[0] < 0:
            raise ArithmeticError("no further")
        return x

    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = may_fail(x)
            if x.requires_grad:
                x.register_hook(may_fail)
            return x

    whole = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), Failing(), nn.Linear(8, 4)).double()
    whole.load_state_dict(dict(zip(whole.state_dict(), network().state_dict().values(), strict=True)))
    model = cut(whole)
    H = hesse.LossHessian(model, LOSS, data)
    v = VECTORS[entries(H), 0]
    for calls in (0, 1, 2):
        left[0] = calls
        refused(ArithmeticError, "no further", lambda: hesse.LossHessian(model, LOSS, data))
    left[0] = 0
    refused(ArithmeticError, "no further", lambda: H @ v)
    left[0] = 10**9
    require_products(H, dense() @ VECTORS)


def errors_within_a_layer() -> None:
    require_errors_within_a_layer(lambda model: parallelize_module(model, mesh(), FAILING), (X, Y))


def errors_within_a_layer_of_one_team() -> None:
    """Reach the other teams as well."""
    require_errors_within_a_layer(lambda model: sharded_parallel(model, FAILING, [model[0]]), batches())


CHECKS = [
    where_pytorch_can(check) for check in (errors_of_one_rank, errors_within_a_layer, errors_within_a_layer_of_one_team)
]
