"""Evaluate a function again without a trace: what it draws, writes and counts is put back afterwards."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from hesse import trees
from hesse.functional.captured import reached, same

Restore = Callable[[], object]


@contextlib.contextmanager
def preserved(func: Callable[..., Any], inputs: Any) -> Iterator[None]:
    """Within it ``func`` may be evaluated; afterwards everything of the user's that can be found is as it was.

    That is: the random generators of PyTorch, NumPy and Python and those that ``func`` captures; the values and the
    ``.grad`` of the inputs and of captured tensors, bit for bit; which tensors a module holds, and its training mode.
    Costs a copy of those tensors meanwhile. What ``func`` does to other Python objects, files or the screen stays.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(_devices()))
        for restore in _restorers(func, inputs):
            stack.callback(restore)
        yield


def _devices() -> range:
    in_use: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # no types there
    return range(torch.cuda.device_count() if in_use else 0)


def _restorers(func: Callable[..., Any], inputs: Any) -> Iterator[Restore]:
    yield _bound(random.setstate, random.getstate())
    yield _bound(np.random.set_state, np.random.get_state())  # noqa: NPY002  # users' code may draw from it
    yield from (_bound(rng.setstate, rng.getstate()) for _, rng in reached(func, random.Random))
    yield from (_bound(rng.set_state, rng.get_state()) for _, rng in reached(func, torch.Generator))
    yield from (_numpy_generator(rng) for _, rng in reached(func, np.random.Generator))
    tensors = [leaf for leaf in trees.flatten(inputs)[0] if isinstance(leaf, Tensor)]
    tensors += [tensor for _, tensor in reached(func, Tensor) if not is_lazy(tensor)]
    for tensor in {id(tensor): tensor for tensor in tensors}.values():
        yield _values(tensor)
        if tensor.is_leaf:
            yield _grad(tensor)
    # Last, and so put back first: whatever a module holds again is then given its values.
    found = {id(part): part for _, module in reached(func, torch.nn.Module) for part in module.modules()}
    yield from (_module(module) for module in found.values())


def _bound(put_back: Callable[[Any], object], state: Any) -> Restore:
    return lambda: put_back(state)


def _numpy_generator(rng: np.random.Generator) -> Restore:
    state = rng.bit_generator.state

    def restore() -> None:
        rng.bit_generator.state = state

    return restore


def _values(tensor: Tensor) -> Restore:
    mode = torch.inference_mode if tensor.is_inference() else torch.no_grad
    with mode():
        copy = tensor.detach().clone()

    def restore() -> None:
        # A write of the same numbers would still count as a change, and make kept operators stale.
        if tensor.shape != copy.shape or not same(tensor.detach(), copy):
            with mode():
                tensor.data.copy_(copy)

    return restore


def _grad(tensor: Tensor) -> Restore:
    grad = tensor.grad
    values = None if grad is None else _values(grad)

    def restore() -> None:
        if tensor.grad is not grad:
            tensor.grad = grad
        if values is not None:
            values()

    return restore


def _module(module: torch.nn.Module) -> Restore:
    training = module.training
    held = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]

    def restore() -> None:
        module.training = training
        for name, tensor in held:
            if getattr(module, name, None) is not tensor:
                setattr(module, name, tensor)

    return restore
