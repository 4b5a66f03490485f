"""Stand-ins: tensors that have a shape, strides, a dtype and a device, and no numbers; and how they get to be used."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

# Private: the stand-ins of torch.compile and torch.export.
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode

# Not documented but in public use: sees every operation below autograd.
from torch.utils._python_dispatch import TorchDispatchMode

from hesse._autograd.thread_state import inference_mode, ordinary_autograd
from hesse._base import trees
from hesse._base.errors import CaptureError
from hesse._linearize.program.argument_checks import passing_value
from hesse._linearize.program.known_values import KnownValues

aten = torch.ops.aten

_INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}


_SET_DATA: Any = Tensor.data.__set__  # type: ignore[attr-defined]  # a property made in C

Instead = Callable[[Any, Sequence[Any], Callable[[Tensor], Any]], Callable[..., Any] | None]
"""Of a function, its arguments, and what reads a tensor's values: what to call instead, or None."""


def new_mode() -> FakeTensorMode:
    """Where stand-ins live: within it, operations make stand-ins, and one that needs numbers raises."""
    # Shapes are numbers here; the empty environment of symbols is what Inductor's cache on disk asks for.
    symbols = ShapeEnv(allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False)
    mode = FakeTensorMode(shape_env=symbols, static_shapes=True)
    # A view that comes from PyTorch's cache of results has a layout that forward mode refuses tangents of.
    mode.cache_enabled = False
    return mode


def is_stand_in(tensor: Tensor) -> bool:
    """Whether a tensor has no numbers."""
    return isinstance(tensor, FakeTensor)


class Substitute(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's has no types
    """Put stand-ins in the place of real tensors, whichever way the function came by them."""

    def __init__(self, stand_ins: dict[int, Tensor], known: KnownValues) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # no types there
        self._stand_ins, self._known = stand_ins, known

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not aten.lift_fresh.default:  # a tensor made of Python numbers just now: a constant
            if any(isinstance(value, torch.Generator) for value in kwargs.values()):
                raise CaptureError(f"{func} draws from a generator of its own")
            args, kwargs = map_aggregate((args, kwargs), self._stand_in_of)
        if func is aten._efficientzerotensor.default:
            # Forward mode's zeros have no memory, and operators take shortcuts for them that skip the stand-ins.
            func = aten.zeros.default
        elif func is aten._local_scalar_dense.default and (passing := passing_value()) is not None:
            return passing
        elif func in _INDEXING:
            args = (args[0], self._positions(args[1]), *args[2:])
        elif func is aten.masked_select.default and self._known.is_known(args[1]):
            shape = torch.broadcast_shapes(args[0].shape, args[1].shape)  # type: ignore[no-untyped-call]  # no types there
            x, mask = [self._run(aten.expand.default, entry, shape) for entry in args]
            return self._run(aten.index.Tensor, x, [mask])
        value = self._known.read(func, args, kwargs)
        if value is None:
            value = func(*args, **kwargs)
            self._known.record(func, args, kwargs, value)
        return value

    def _run(self, func: Any, *args: Any) -> Any:
        return self.__torch_dispatch__(func, (), args)

    def _positions(self, indices: Sequence[Any]) -> list[Any]:
        """The indices of a tensor, with the positions of True in place of masks that are known."""
        found: list[Any] = []
        for index in indices:
            if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) and self._known.is_known(index):
                found += self._run(aten.unbind.int, self._run(aten.nonzero.default, index), 1)
            else:
                found.append(index)
        return found

    def _stand_in_of(self, tensor: Any) -> Any:
        if not isinstance(tensor, Tensor) or is_stand_in(tensor):
            return tensor
        if id(tensor) in self._stand_ins:
            return self._stand_ins[id(tensor)]
        raise CaptureError(
            f"it uses {_described(tensor)} that is neither among its arguments nor found in what it captures"
        )


def has_stand_in(tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, torch.nn.Parameter, torch.nn.Buffer) and tensor.layout == torch.strided
    return plain and not (tensor.is_nested or tensor.is_quantized or torch.nn.parameter.is_lazy(tensor))


def stand_in(mode: FakeTensorMode, tensor: Tensor, name: str = "") -> Tensor:
    if not has_stand_in(tensor):
        raise CaptureError(f"{name} is {_described(tensor)}, where dense tensors are needed")
    if tensor.is_inference() or tensor.is_conj() or tensor.is_neg():
        with inference_mode(False), mode:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    with inference_mode(False):
        return mode.from_tensor(tensor.detach())


def _described(tensor: Tensor) -> str:
    kind = "" if type(tensor) is Tensor else f" of type {type(tensor).__name__}"
    layout = "" if tensor.layout == torch.strided else f", layout {tensor.layout}"
    return f"a tensor{kind} of shape {tuple(tensor.shape)}{layout}"


class SubstituteEarly(TorchFunctionMode):
    """Put stand-ins in the place of real tensors where the dispatcher would be too late.

    Autograd refuses to save inference tensors, and ``tolist`` reads memory by itself. Functions that ``instead`` knows
    are replaced.
    """

    def __init__(self, stand_ins: dict[int, Tensor], instead: Instead) -> None:
        self._stand_ins, self._instead = stand_ins, instead

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        def normal(tensor: Tensor) -> Tensor:
            return self._stand_ins.get(id(tensor), tensor) if tensor.is_inference() else tensor

        def read(tensor: Tensor) -> Any:
            return self._stand_ins.get(id(tensor), tensor).tolist()

        if func is Tensor.tolist:
            return read(args[0])
        if func == _SET_DATA and is_stand_in(args[1]) and not is_stand_in(args[0]):
            # The user's tensor would have no numbers from then on.
            raise CaptureError(f"it assigns to .data of {_described(args[0])}; write into the tensor in place")
        args, kwargs = trees.map_tensors(normal, (args, kwargs or {}))
        other = None if kwargs else self._instead(func, args, read)
        return (other or func)(*args, **kwargs)


@contextlib.contextmanager
def recording(stand_ins: dict[int, Tensor], instead: Instead) -> Iterator[None]:
    """Ordinary autograd, also inside inference mode; and no weights cached by autocast, which are no stand-ins.

    Without oneDNN's LSTM, which returns None where its stand-in has a tensor.
    """
    cached = torch.is_autocast_cache_enabled()
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(inference_mode(False))
        stack.enter_context(SubstituteEarly(stand_ins, instead))
        torch.clear_autocast_cache()
        torch.set_autocast_cache_enabled(False)
        stack.callback(torch.set_autocast_cache_enabled, cached)
        # Not by ``torch.backends.mkldnn.flags``, which also sets the precisions that are chosen for single operators.
        stack.callback(torch._C._set_mkldnn_enabled, torch._C._get_mkldnn_enabled())
        torch._C._set_mkldnn_enabled(False)
        stack.enter_context(ordinary_autograd())
        yield
