"""A wrapper tensor subclass that logs every operator it is dispatched to."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


class LoggedTensor(Tensor):
    """A tensor without memory of its own: each operator runs on ``inner``, is logged, and its results wrapped.

    Unlike ``torch.testing._internal.logging_tensor.LoggingTensor`` it takes no part in ``__torch_function__``,
    and it never lets the wrapped tensor carry a graph.
    """

    inner: Tensor
    log: ClassVar[list[str]] = []

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> LoggedTensor:
        wrapper: LoggedTensor = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=inner.device,
            requires_grad=requires_grad,
        )
        wrapper.inner = inner.detach()
        return wrapper

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"LoggedTensor({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.log.append(str(func))
        args, kwargs = tree_map(_inner, (args, kwargs or {}))
        return tree_map(lambda result: cls(result) if isinstance(result, Tensor) else result, func(*args, **kwargs))


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, LoggedTensor) else value
