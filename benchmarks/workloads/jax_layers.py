"""The layers of the workloads in JAX, with PyTorch's layouts and definitions.

Only the JAX contestants import this file, because JAX is optional.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def linear(parameters: dict[str, Any], prefix: str, x: Any) -> Any:
    return x @ parameters[f"{prefix}.weight"].T + parameters[f"{prefix}.bias"]


def convolution(weight: Any, x: Any, stride: int = 1) -> Any:
    padding = [(size // 2, size // 2) for size in weight.shape[2:]]
    return lax.conv_general_dilated(x, weight, (stride, stride), padding, dimension_numbers=("NCHW", "OIHW", "NCHW"))


def layer_norm(parameters: dict[str, Any], prefix: str, x: Any) -> Any:
    scaled = _standardize(x, -1)
    return scaled * parameters[f"{prefix}.weight"] + parameters[f"{prefix}.bias"]


def group_norm(parameters: dict[str, Any], prefix: str, x: Any, groups: int) -> Any:
    scaled = _standardize(x.reshape(x.shape[0], groups, -1), -1).reshape(x.shape)
    weight, bias = parameters[f"{prefix}.weight"], parameters[f"{prefix}.bias"]
    return scaled * weight[:, None, None] + bias[:, None, None]


def batch_norm_in_eval(parameters: dict[str, Any], buffers: dict[str, Any], prefix: str, x: Any) -> Any:
    mean, variance = buffers[f"{prefix}.running_mean"], buffers[f"{prefix}.running_var"]
    scale = parameters[f"{prefix}.weight"] * lax.rsqrt(variance + 1e-5)
    shift = parameters[f"{prefix}.bias"] - mean * scale
    return x * scale[:, None, None] + shift[:, None, None]


def cross_entropy(logits: Any, targets: Any) -> Any:
    log_probabilities = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_probabilities, targets[:, None], axis=1).mean()


def _standardize(x: Any, axis: int) -> Any:
    centered = x - x.mean(axis, keepdims=True)
    return centered * lax.rsqrt((centered**2).mean(axis, keepdims=True) + 1e-5)
