"""What devices have: double precision, and generators of random numbers."""

from __future__ import annotations

import functools

import torch


def widest(device: torch.device) -> torch.dtype:
    """The widest floating-point type of a device: float64, or float32 where it has none, as Apple's."""
    return _widest(device.type)


@functools.cache
def _widest(kind: str) -> torch.dtype:
    try:
        return torch.zeros((), dtype=torch.float64, device=kind).dtype
    except (TypeError, RuntimeError):
        return torch.float32


def default_generators() -> list[torch.Generator]:
    """PyTorch's own generators: the CPU's, and that of each device of an accelerator that has been used."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None:
        return [torch.default_generator]
    if accelerator.type == "mps":
        return [torch.default_generator, torch.mps._get_default_mps_generator()]
    return [torch.default_generator, *getattr(torch.get_device_module(accelerator), "default_generators", ())]


States = dict[torch.Generator, torch.Tensor]
"""Of random generators, at some time."""


def generator_states() -> States:
    """The states of PyTorch's own generators."""
    return {generator: generator.get_state() for generator in default_generators()}


def put_back(states: States) -> None:
    """Let the generators go on from these states."""
    for generator, state in states.items():
        generator.set_state(state)
