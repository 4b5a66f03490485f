"""ResNet-18 for small images, of a quarter of the published width, with BatchNorm in evaluation.

He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016. The full width
takes minutes a round on two cores; the depth, the kinds of layers and their order are kept.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workloads.base import Workload, of_network


class Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        widths = [width * 2**stage for stage in range(4)]
        blocks = [
            Block(before if first else after, after, stride if first else 1)
            for before, after, stride in zip([width, *widths], widths, (1, 2, 2, 2), strict=False)
            for first in [True] + [False] * (depth - 1)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm(self.conv(images))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def draw_statistics(model: nn.Module) -> None:
    """Running statistics as after some training, since those of a new layer do nothing."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)


def jax_twin() -> Callable[..., Any]:
    import jax

    from benchmarks.workloads import jax_layers

    def loss(parameters: dict[str, Any], images: Any, targets: Any, buffers: dict[str, Any]) -> Any:
        def layer(prefix: str, conv: str, norm: str, x: Any, stride: int = 1) -> Any:
            x = jax_layers.convolution(parameters[f"{prefix}{conv}.weight"], x, stride)
            return jax_layers.batch_norm_in_eval(parameters, buffers, f"{prefix}{norm}", x)

        x = jax.nn.relu(layer("", "conv", "norm", images))
        num_blocks = 1 + max(int(key.split(".")[1]) for key in parameters if key.startswith("blocks."))
        for index in range(num_blocks):
            block = f"blocks.{index}."
            projected = f"{block}shortcut.0.weight" in parameters
            stride = 2 if projected else 1
            inner = jax.nn.relu(layer(block, "conv1", "norm1", x, stride))
            shortcut = layer(block, "shortcut.0", "shortcut.1", x, stride) if projected else x
            x = jax.nn.relu(layer(block, "conv2", "norm2", inner) + shortcut)
        return jax_layers.cross_entropy(jax_layers.linear(parameters, "head", x.mean((2, 3))), targets)

    return loss


def build(dtype: torch.dtype = torch.float32, quick: bool = False) -> Workload:
    width, depth, batch, pixels = (2, 1, 2, 16) if quick else (16, 2, 16, 32)
    torch.manual_seed(0)
    model = ResNet(width, depth)
    draw_statistics(model)
    images, targets = torch.randn(batch, 3, pixels, pixels), torch.randint(10, (batch,))
    buffers = {key: buffer.to(dtype) for key, buffer in model.named_buffers() if buffer.is_floating_point()}
    return of_network(
        "resnet",
        f"ResNet-18 of width {width}, BatchNorm in evaluation, batch {batch}",
        model,
        nn.CrossEntropyLoss(),
        (images, targets),
        dtype,
        jax_twin=jax_twin,
        jax_data=(buffers,),
    )
