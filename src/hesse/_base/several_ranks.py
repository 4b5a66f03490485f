"""Refuse models, data and products that several ranks share where nothing reduces over ranks.

Models and samplers are recognized by the names of their classes and attributes, so that nothing of torch.distributed
is imported that a plain program does not load. This file imports nothing of hesse, so that every floor can ask it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Sampler

_SHARDED = {"FSDPModule", "FullyShardedDataParallel"}
"""A class that ``fully_shard`` makes of a model's own, and the wrapper of the first FSDP."""
_REPLICATED = {"DistributedDataParallel", "DDP"}
"""The wrapper, and a class that ``replicate`` makes of a model's own."""

_LOCAL_PARTS = "torch.distributed.tensor.parallel.ddp"
"""Where the hooks are from that put DTensors into the place of their local parts for a forward."""

_IS_AVAILABLE = dist.is_available()

_WHOLE_COPY = (
    " Give a whole copy, which can load what torch.distributed.checkpoint.state_dict.get_model_state_dict returns with"
    " full_state_dict=True."
)


def group_exists() -> bool:
    """Whether this process belongs to a process group; without one there are no models of several ranks."""
    return _IS_AVAILABLE and dist.is_initialized()


def is_dtensor(tensor: Tensor) -> bool:
    """Whether a tensor is a ``torch.distributed.tensor.DTensor``, of which each rank holds a part."""
    return type(tensor) not in (Tensor, nn.Parameter) and "DTensor" in _names(tensor)


def is_fsdp(module: nn.Module) -> bool:
    """Whether ``fully_shard`` was called on a module."""
    return "FSDPModule" in _names(module)


def is_sharded(model: nn.Module) -> bool:
    """Whether ``fully_shard`` cut up a model, or a part of it."""
    return any(map(is_fsdp, model.modules()))


def is_parallel(model: nn.Module) -> bool:
    """Whether a model has DTensors for parameters as tensor parallel makes them, and not ``fully_shard``."""
    return any(map(is_dtensor, model.parameters())) and not is_sharded(model)


def refuse_model(model: nn.Module, name: str, *, cut: bool = False) -> None:
    """Raise if a model, whose parameters ``name`` would differentiate by, is shared by several ranks.

    One that is cut up passes if it is to be evaluated as such, with DTensors for parameters.
    """
    for module in model.modules():
        if not (cut and is_fsdp(module)):
            _refuse_module(module, name)
    for key, tensor in [*([] if cut else model.named_parameters()), *model.named_buffers()]:
        if is_dtensor(tensor):
            raise NotImplementedError(
                f"{name} cannot be made of a model with DTensors, as tensor parallel makes them, but {key!r} is"
                f" one.{_WHOLE_COPY}"
            )


def refusing_models(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, which raises where it evaluates a model that several ranks share.

    The modules that it calls are seen as they are called: a DDP model of which it takes ``.module`` is none of them.
    """
    if torch.compiler.is_compiling() or not group_exists():
        return function

    def call(*args: Any, **kwargs: Any) -> Any:
        thread = threading.get_ident()

        def look(module: nn.Module, _: Any) -> None:
            # The hook is called for the modules of all threads.
            if threading.get_ident() == thread:
                _refuse_module(module, name)

        handle = register_module_forward_pre_hook(look)
        try:
            with _without_word_of_hooks():
                return function(*args, **kwargs)
        finally:
            handle.remove()

    return call


@contextlib.contextmanager
def _without_word_of_hooks() -> Iterator[None]:
    """Modules that torch.compile made warn of hooks like ours; a second call of ours does no harm."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Using `torch\.compile\(module\)` when there are global hooks")
        yield


def _refuse_module(module: nn.Module, name: str) -> None:
    names = _names(module)
    if not names.isdisjoint(_SHARDED):
        raise NotImplementedError(
            f"{name} cannot differentiate a model of FSDP, whose hooks cut second derivatives off, but got a"
            f" {type(module).__name__}.{_WHOLE_COPY}"
        )
    if any(getattr(hook, "__module__", "") == _LOCAL_PARTS for hook in module._forward_pre_hooks.values()):
        raise NotImplementedError(
            f"{name} takes no tensor parallel model in DistributedDataParallel, which hides that it has DTensors."
            " Call fully_shard with the mesh's other dimension in its place."
        )
    if not names.isdisjoint(_REPLICATED):
        ranks = _ranks(getattr(module, "process_group", None))
        if ranks > 1:
            raise NotImplementedError(
                f"{name} does not reduce over ranks, but got a {type(module).__name__} of {ranks} ranks, of which each"
                " would have the product of its own data. Give the model in it, model.module; hesse.LossHessian and"
                " hesse.Hessian with group= make one product of all ranks."
            )


def replicated(model: nn.Module, name: str) -> tuple[nn.Module, Any]:
    """The model within ``DistributedDataParallel`` of several ranks, and their group; else the model, and None."""
    if "DistributedDataParallel" not in _names(model) or _ranks(model.process_group) == 1:
        return model, None
    usual: Any = next(kind for kind in type(model).__mro__ if kind.__name__ == "DistributedDataParallel")
    for what, is_there in (
        ("hooks", model._forward_hooks or model._forward_pre_hooks),
        ("a forward", getattr(type(model), "forward", None) is not usual.forward),
        ("a policy of mixed precision", getattr(model, "mixed_precision", None)),
    ):
        if is_there:
            raise NotImplementedError(
                f"{name} evaluates the module within a {type(model).__name__}, but the wrapper has {what} of its own."
                f" Put this into that module, or give {name} model.module and group=."
            )
    return model.get_submodule("module"), model.process_group


def dealt(data: Any) -> dict[str, Any]:
    """What has to be the same on all ranks, so that samplers deal out each row once."""
    return {
        f"the {type(part).__name__}'s {key}": getattr(part, key)
        for part in _parts(data)
        if getattr(part, "num_replicas", 1) != 1
        for key in ("num_replicas", "shuffle", "seed", "epoch")
        if hasattr(part, key)
    }


def own_rows(data: Any, ranks: int, rank: int) -> int | None:
    """How many rows a loader with PyTorch's ``DistributedSampler`` gives a rank before it repeats others' rows.

    The sampler deals rows out in turn, and fills up the last turn from the beginning. None where nothing is repeated,
    or where the loader is not known to give rows in the sampler's order.
    """
    sampler = getattr(data, "sampler", None)
    if type(data) is not DataLoader or type(sampler) is not DistributedSampler:
        return None
    rows = _length(sampler.dataset)
    if (sampler.num_replicas, sampler.rank) != (ranks, rank) or rows is None or sampler.total_size <= rows:
        return None
    return max(0, rows - rank + ranks - 1) // ranks


def refuse_repeats(data: Any, name: str) -> None:
    """Raise if a loader gives some rows of its data more than once, so that all ranks have equally many."""
    for part in _parts(data):
        repeats = _of_distributed_sampler(part) or _of_accelerate(part)
        if repeats is not None and repeats.ranks > 1:
            raise ValueError(
                f"The {type(part).__name__} in the data given to {name} {repeats.what}, so that {repeats.ranks} ranks"
                f" have equally many, and these rows would count twice. {repeats.remedy}"
            )


class _Repeats(NamedTuple):
    ranks: int
    what: str
    remedy: str


def _parts(data: Any) -> Iterator[Any]:
    """The loaders, samplers and iterable data sets that data is made of, itself first."""
    pending, seen = [data], set()
    while pending:
        part = pending.pop()
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            inner = list(getattr(part, "__dict__", {}).values())
            pending += [entry for entry in inner if isinstance(entry, DataLoader | Sampler | IterableDataset)]


def _of_distributed_sampler(part: Any) -> _Repeats | None:
    """What PyTorch's ``DistributedSampler``, or one with its attributes, repeats."""
    if not (hasattr(part, "num_replicas") and hasattr(part, "total_size")):
        return None
    rows = _length(getattr(part, "dataset", None))
    if rows is None or part.total_size <= rows:
        return None
    what = f"repeats {part.total_size - rows} of {rows} rows"
    remedy = "Give it drop_last=True, or give each rank a torch.utils.data.Subset of its own rows."
    return _Repeats(part.num_replicas, what, remedy)


def _of_accelerate(part: Any) -> _Repeats | None:
    """What the loaders that accelerate prepares repeat, by its own arithmetic."""
    names = _names(part)
    remedy = "Prepare a loader with drop_last=True."
    if "BatchSamplerShard" in names and part.even_batches and not part.drop_last:
        ranks, rows, step = part.num_processes, _length(getattr(part.batch_sampler, "sampler", None)), part.batch_size
        if step is None:
            rows, step = _length(part.batch_sampler), 1
        step = step if part.split_batches else step * ranks
        remedy = "Prepare the loader with DataLoaderConfiguration(even_batches=False), or with drop_last=True."
    elif "IterableDatasetShard" in names and not part.drop_last:
        ranks, rows = part.num_processes, _length(part.dataset)
        step = part.batch_size if part.split_batches else part.batch_size * ranks
    elif "DataLoaderDispatcher" in names and not part._drop_last:
        ranks, rows = part.state.num_processes, _length(part.dataset)
        step = ranks
    else:
        return None
    if rows is not None and rows % step == 0:
        return None
    return _Repeats(ranks, "may repeat rows" if rows is None else "repeats rows", remedy)


def _length(sized: Any) -> int | None:
    try:
        return len(sized)
    except TypeError:
        return None


def communications() -> int:
    """How many times this process has communicated with other ranks; zero where it is alone.

    A difference tells that what was called between depends on other ranks.
    """
    if not group_exists() or _ranks() == 1:
        return 0
    # Public names know the default group alone.
    groups = dist.distributed_c10d._world.pg_map
    backends = {group._get_backend(device) for group in groups for device in group._device_types}
    return sum(map(_sequence_number, backends))


def _sequence_number(backend: Any) -> int:
    try:
        return int(backend._get_sequence_number_for_group())
    except RuntimeError:  # a backend that does not count
        return 0


def _ranks(group: Any = None) -> int:
    return dist.get_world_size(group) if group_exists() else 1


def _names(value: Any) -> set[str]:
    return {cls.__name__ for cls in type(value).__mro__}
