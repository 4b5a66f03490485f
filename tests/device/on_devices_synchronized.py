"""SyncBatchNorm, which works on accelerators and between ranks alone: refused by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

import hesse
from tests.device.entries import numbers


@pytest.fixture(autouse=True)
def _two_ranks() -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.fixture(autouse=True)
def _gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other rank, which is not there, sends what this one does."""

    def gather(output: Tensor, given: Tensor, *rest: object, **options: object) -> None:
        output.view(2, -1).copy_(given.view(1, -1))

    for name in ("all_gather_single", "all_gather_into_tensor"):
        monkeypatch.setattr(dist, name, gather, raising=False)


@pytest.fixture(autouse=True)
def _kernels() -> Iterator[None]:
    """The parts of the layer's forward that the CPU has no kernels of."""
    library = torch.library.Library("aten", "IMPL")

    def stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return x.mean((0, 2)), (x.var((0, 2), correction=0) + eps).rsqrt()

    def gather(x: Tensor, mean: Tensor, invstd: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
        return mean.mean(0), invstd.mean(0)

    def elementwise(x: Tensor, w: Tensor, b: Tensor, mean: Tensor, invstd: Tensor, eps: float) -> Tensor:
        return (x - mean[:, None]) * (w * invstd)[:, None] + b[:, None]

    library.impl("batch_norm_stats", stats, "CUDA")
    library.impl("batch_norm_gather_stats_with_counts", gather, "CUDA")
    library.impl("batch_norm_elemt", elementwise, "CUDA")
    yield
    library._destroy()


MODEL = nn.Sequential(nn.Conv1d(2, 3, 1), nn.SyncBatchNorm(3))
WAYS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "vhp": lambda model, x: hesse.vhp(lambda x: model(x).square().sum(), x, x),
    "Hessian": lambda model, x: hesse.Hessian(lambda x: model(x).square().sum(), x, engine="tape"),
    "LossHessian": lambda model, x: hesse.LossHessian(model, _loss, (x, x[:, :1]), engine="tape") @ x.new_ones(15),
    "GaussNewton": lambda model, x: hesse.GaussNewton(model, _loss, (x, x[:, :1]), engine="tape") @ x.new_ones(15),
}


def _loss(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square().mean()


@pytest.mark.parametrize("way", WAYS)
def test_a_layer_between_ranks_is_refused_by_its_name(way: str) -> None:
    with pytest.raises(hesse.NoDerivativeError, match="SyncBatchNorm"):
        WAYS[way](MODEL.to("cuda"), numbers(4, 2, 5).to("cuda"))


def test_in_evaluation_it_is_a_batch_norm_like_others() -> None:
    layer = nn.SyncBatchNorm(2).to("cuda").eval()
    x = numbers(4, 2, 5).to("cuda")
    product = hesse.vhp(lambda x: layer(x).pow(3).sum(), x, torch.ones_like(x))[1]
    torch.testing.assert_close(product, 6 * x / (1 + layer.eps) ** 1.5, rtol=1e-5, atol=1e-5)
