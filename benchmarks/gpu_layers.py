"""Checks of products through layers that have kernels of their own on a GPU, against float64 on the CPU."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import hesse
from benchmarks.gpu_machine import Check, Facts, Machine, check, far, numbers, of_parameters


def distances(machine: Machine, model: nn.Module, x: Tensor, dtype: torch.dtype, backend: str | None = None) -> Facts:
    """Of products on the device from the same in float64 on the CPU, where attention is in plain operations."""

    def call(*given: Tensor) -> Callable[[nn.Module], Tensor]:
        return lambda one: one(*given).square().mean()

    func, parameters = of_parameters(copy.deepcopy(model).double(), call(x.double()))
    v = numbers(sum(entry.numel() for entry in parameters.values()), seed=7)
    with sdpa_kernel(SDPBackend.MATH):
        expected = hesse.Hessian(func, parameters, engine="tape") @ v.double()
    func, parameters = of_parameters(copy.deepcopy(model).to(machine.device, dtype), call(x.to(machine.device, dtype)))
    with machine.attending_by(backend) if backend else contextlib.nullcontext():
        H = hesse.Hessian(func, parameters, engine="tape")
        on_device = v.to(machine.device)
        columns = (H @ on_device.unsqueeze(1).repeat(1, 16))[:, 7]
        return {
            "H @ v": far(H @ on_device, expected),
            "16 columns": far(columns, expected),
            "hvp": far(H.flatten(hesse.hvp(func, parameters, H.unflatten(on_device))[1]), expected),
        }


class Attention(nn.Module):
    """Attention of a few heads."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal, self.joint = causal, nn.Linear(64, 192)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = [part.unflatten(-1, (4, 16)).transpose(1, 2) for part in self.joint(x).chunk(3, -1)]
        return F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)


KERNELS = {
    "EFFICIENT_ATTENTION": torch.float32,
    "FLASH_ATTENTION": torch.bfloat16,
    "CUDNN_ATTENTION": torch.bfloat16,
}


def _attention(backend: str, causal: bool) -> Check:
    return lambda machine: distances(machine, Attention(causal), numbers(2, 33, 64), KERNELS[backend], backend)


for _backend in KERNELS:
    for _causal in (False, True):
        check(f"{_backend}, causal {_causal}")(_attention(_backend, _causal))


class First(nn.Module):
    """The first result of a layer that has several."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x)
        first: Tensor = found[0] if isinstance(found, tuple) else found
        return first


SEQUENCES, IMAGES = numbers(7, 3, 6), numbers(4, 3, 12, 12)
LAYERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "LSTM": lambda: (nn.LSTM(6, 5, 2, bidirectional=True), SEQUENCES),
    "GRU": lambda: (nn.GRU(6, 5), SEQUENCES),
    "RNN": lambda: (nn.RNN(6, 5), SEQUENCES),
    "LayerNorm": lambda: (nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9)), SEQUENCES),
    "BatchNorm2d": lambda: (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU()), IMAGES),
    "GroupNorm": lambda: (nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)), IMAGES),
    "Conv2d": lambda: (nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 4, 3, stride=2)), IMAGES),
    "ConvTranspose2d": lambda: (nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.ConvTranspose2d(4, 3, 3)), IMAGES),
    "TransformerEncoderLayer": lambda: (
        nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, dropout=0.0),
        SEQUENCES,
    ),
}


def _layer(name: str) -> Check:
    def run(machine: Machine) -> Facts:
        layer, x = LAYERS[name]()
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return distances(machine, First(layer), x, torch.float32)

    return run


for _name in LAYERS:
    check(_name)(_layer(_name))


@check("BatchNorm, third derivative")
def _third(machine: Machine) -> Facts:
    found = []
    for device, dtype in (("cpu", torch.float64), (machine.device, torch.float32)):
        w = torch.linspace(-1, 1, 32).reshape(2, 2, 2, 4).to(device, dtype).requires_grad_()
        v = torch.linspace(1, 2, 32).reshape(2, 2, 2, 4).to(device, dtype)

        def func(w: Tensor, v: Tensor = v) -> Tensor:
            return (F.batch_norm(w, None, None, training=True) * v).pow(4).sum()

        product = hesse.vhp(func, w, v, create_graph=True)[1]
        found.append(torch.autograd.grad((product * v).sum(), w)[0])
    return {"far": far(found[1], found[0])}


@check("CTC loss")
def _ctc(machine: Machine) -> Facts:
    logits, v = numbers(20, 3, 10), numbers(20, 3, 10, seed=1)
    targets = torch.arange(12, dtype=torch.int32) % 9 + 1
    lengths = torch.full((3,), 20, dtype=torch.int32), torch.full((3,), 4, dtype=torch.int32)

    def func(z: Tensor) -> Tensor:
        return F.ctc_loss(z.log_softmax(2), targets, *lengths)

    ours = hesse.vhp(func, logits.to(machine.device), v.to(machine.device))[1]
    return {"far": far(ours, hesse.vhp(func, logits.double(), v.double())[1])}
