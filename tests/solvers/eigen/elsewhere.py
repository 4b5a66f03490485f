"""A machine of two devices on one that has none: tensors on the second one are CPU tensors in disguise.

They say that they are on the device ``meta``. Whatever mixes both devices raises, as it would with a GPU.
"""

from __future__ import annotations

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import hesse

ELSEWHERE = torch.device("meta")


class There(torch.Tensor):
    """A tensor on the second device."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=ELSEWHERE,
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} was given a tensor of a device that is not there.")


class TwoDevices(TorchDispatchMode):
    """While it lasts, the second device is there.

    Attributes:
        copies: entries that were copied from one device to the other, in either direction, at each time.
    """

    def __init__(self):
        super().__init__()
        self.copies = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        away = [leaf for leaf in given if isinstance(leaf, There)]
        goes = torch.device(kwargs["device"]) == ELSEWHERE if kwargs.get("device") is not None else bool(away)
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
            if given and goes != bool(away):
                self.copies.append(given[0].numel())
        elif func is torch.ops.aten.copy_.default:
            goes = isinstance(args[0], There)
            if goes != isinstance(args[1], There):
                self.copies.append(args[1].numel())
        elif away and any(not isinstance(leaf, There) and leaf.dim() for leaf in given):
            raise RuntimeError(f"{func} was given tensors of two devices.")
        originals = {id(leaf.inner): leaf for leaf in away}
        args, kwargs = pytree.tree_map_only(There, lambda leaf: leaf.inner, (args, kwargs))
        results = func(*args, **kwargs)
        if not goes:
            return results
        return pytree.tree_map_only(
            torch.Tensor, lambda leaf: originals[id(leaf)] if id(leaf) in originals else There(leaf), results
        )


class Far(hesse.Operator):
    """A matrix on the second device."""

    symmetric = True

    def __init__(self, matrix):
        self._matrix = matrix
        self.shape, self.dtype, self.device = tuple(matrix.shape), matrix.dtype, ELSEWHERE

    def matmat(self, V):
        assert isinstance(V, There)
        return There(self._matrix @ V.inner)
