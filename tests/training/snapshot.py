"""Everything that belongs to a training, down to the bits of its tensors and the identities of its objects."""

from __future__ import annotations

import collections
import functools
import random
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules

Snapshot = dict[str, Any]
"""By the path to it, what each thing is."""

_ATOMS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


def snapshot(root: Any) -> Snapshot:
    """Of all that can be reached from an object; with identities, so for comparison within one process."""
    found: Snapshot = {}
    _describe("", root, found, {})
    return found


def bits(root: Any) -> Snapshot:
    """The same without identities and counts of writes: what two trainings have in common."""
    found = snapshot(root)
    return {
        path: value
        for path, value in found.items()
        if not path.endswith((" is", " writes", "._torchdynamo_wrapper_id"))
    }


def _describe(path: str, value: Any, found: Snapshot, seen: dict[int, str]) -> None:
    if isinstance(value, _ATOMS):
        found[path] = type(value), repr(value)
        return
    if id(value) in seen:
        found[path] = f"the same as {seen[id(value)]}"
        return
    seen[id(value)] = path
    found[f"{path} is"] = id(value)
    found[f"{path} type"] = f"{type(value).__module__}.{type(value).__qualname__}"
    for name, fact in _facts(value).items():
        found[f"{path} {name}"] = fact
    for name, child in _children(value):
        _describe(f"{path}{name}", child, found, seen)


def _facts(value: Any) -> dict[str, Any]:
    """What an object is by itself."""
    match value:
        case Tensor():
            return _facts_of_tensor(value)
        case torch.Generator():
            return {"state": value.get_state().numpy().tobytes()}
        case np.random.Generator():
            return {"state": repr(value.bit_generator.state)}
        case random.Random():
            return {"state": hash(value.getstate())}
        case dict():
            return {"keys": [key for key in value if isinstance(key, str)], "length": len(value)}
        case list() | tuple() | collections.deque():
            return {"length": len(value)}
        case set() | frozenset():
            return {"entries": sorted(map(repr, value))}
    return {}


def _facts_of_tensor(tensor: Tensor) -> dict[str, Any]:
    numbers = None if tensor.is_meta else tensor.detach().resolve_conj().contiguous().view(-1).view(torch.uint8)
    return {
        "writes": None if tensor.is_inference() else tensor._version,
        "kind": (tensor.shape, tensor.dtype, tensor.stride(), tensor.requires_grad, tensor.is_leaf),
        "history": type(tensor.grad_fn).__name__,
        "numbers": None if numbers is None else numbers.numpy().tobytes(),
    }


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds."""
    if isinstance(value, Tensor):
        if value.is_leaf:
            yield ".grad", value.grad
        yield "._backward_hooks", value._backward_hooks
        yield "._post_accumulate_grad_hooks", value._post_accumulate_grad_hooks
    elif isinstance(value, torch.jit.ScriptModule):
        yield from [(f".{name}", tensor) for name, tensor in value.state_dict(keep_vars=True).items()]
        yield ".training", value.training
    elif isinstance(value, types.FunctionType):
        names = value.__code__.co_freevars
        yield from [
            (f".<{name}>", cell.cell_contents) for name, cell in zip(names, value.__closure__ or (), strict=True)
        ]
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    elif isinstance(value, functools.partial):
        yield from [("(func)", value.func), ("(args)", value.args), ("(keywords)", value.keywords)]
    elif isinstance(value, dict):
        # Hooks have running numbers for keys.
        yield from [(f"[{key!r}]" if isinstance(key, str) else f"[{i}]", value[key]) for i, key in enumerate(value)]
    elif isinstance(value, list | tuple | collections.deque):
        yield from [(f"[{i}]", entry) for i, entry in enumerate(value)]
    if _is_followed(value):
        yield from [(f".{name}", entry) for name, entry in value.__dict__.items()]
        for kind in type(value).__mro__:
            names = kind.__dict__.get("__slots__", ())
            for name in (names,) if isinstance(names, str) else names:
                if not name.startswith("__") and hasattr(value, name):
                    yield f".{name}", getattr(value, name)


def _is_followed(value: Any) -> bool:
    """Whether the attributes of an object belong to the training."""
    if isinstance(value, Tensor | torch.jit.ScriptModule | type | types.ModuleType | types.FunctionType):
        return False
    place = type(value).__module__.partition(".")[0]
    return isinstance(getattr(value, "__dict__", None), dict) and (
        isinstance(value, nn.Module | torch.optim.Optimizer) or place in ("tests", "transformers")
    )


def settings() -> Snapshot:
    """What PyTorch, NumPy and Python hold for the process and this thread."""
    stance = sys.modules["torch._dynamo.eval_frame"]._stance.stance if "torch._dynamo" in sys.modules else "default"
    found = {
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": str(torch.get_default_device()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matrix products": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
        "anomaly": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "stance of the compiler": stance,
        "transforms": torch._C._functorch.get_dynamic_layer_stack_depth(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "function modes": torch._C._len_torch_function_stack(),
        "forward-mode level": torch.autograd.forward_ad._current_level,
        "saved tensors": torch._C._autograd._top_saved_tensors_default_hooks(False),
        "multithreading": torch._C._is_multithreading_enabled(),
        "oneDNN": torch.backends.mkldnn.enabled,
        "attention": [torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()],
        "hooks of all modules": [
            len(hooks)
            for name, hooks in vars(modules).items()
            if name.startswith("_global_") and hasattr(hooks, "items")
        ],
        "warnings": (list(warnings.filters), warnings.showwarning),
        "excepthook": sys.excepthook,
        "draws of PyTorch": torch.get_rng_state().numpy().tobytes(),
        "draws of NumPy": str(np.random.get_state()),  # noqa: NPY002  # users' code draws from it
        "draws of Python": hash(random.getstate()),
    }
    for name in ("apply", "__call__", "forward", "register_parameter", "__getattr__", "__setattr__"):
        found[f"nn.Module.{name}"] = getattr(nn.Module, name)
    for name in ("backward", "__torch_function__", "register_hook", "__getitem__"):
        found[f"Tensor.{name}"] = getattr(Tensor, name)
    for name in ("grad", "backward"):
        found[f"torch.autograd.{name}"] = getattr(torch.autograd, name)
    for name in ("is_compiling", "cond", "vmap"):
        found[f"torch.{name}"] = getattr(torch, name, None)
    found["scaled_dot_product_attention"] = torch.nn.functional.scaled_dot_product_attention
    found["checkpoint"] = sys.modules["torch.utils.checkpoint"].checkpoint
    return found


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """The paths of what is not the same, the shortest first."""
    missing = object()
    changed = [path for path in {**before, **after} if before.get(path, missing) != after.get(path, missing)]
    return sorted(changed, key=len)
