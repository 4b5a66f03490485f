"""Follow which cotangents the entries of a product depend on, while PyTorch computes the product.

The product is linear in the cotangents, and autograd has already decided which of its factors are constant. So nothing
needs to be known about derivatives: only how linear operators spread their arguments' entries over their results'.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, UntypedStorage

# Private: the type of an operator.
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode

# Not documented but in public use: sees every operation below autograd.
from torch.utils._python_dispatch import TorchDispatchMode

from hesse._sparse.call import Call, tensors_in, written_arguments
from hesse._sparse.rules import UNIONS, rule_of
from hesse._sparse.sets import Dependence, Sets
from hesse._sparse.shadows import Shadows, storage_of

aten = torch.ops.aten

# They return numbers that depend on shapes alone.
_SHAPES = {aten.is_same_size.default, aten.sym_size.int, aten.sym_stride.int, aten.sym_numel.default}


class Following(TorchDispatchMode):
    """Follows sets through every operator that runs within.

    Also follows which tensors are the same at every point: zeros of others are not zero elsewhere.

    Args:
        sets: makes unions.
        constants: captured tensors, which no input shares memory with.
    """

    # Operators that take functions are treated as unknown ones, where PyTorch would refuse the mode.
    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether to load the compiler to keep it out of here, which takes seconds: functions run eagerly anyway."""
        return False

    def __init__(self, sets: Sets, constants: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # no types there
        self._sets = sets
        self._shadows = Shadows(sets)
        self._constants: weakref.WeakSet[UntypedStorage] = weakref.WeakSet()
        self._constants.update([storage for tensor in constants if (storage := storage_of(tensor)) is not None])
        self._has_read = False
        # In here, so that arrays made on the way are not taken for reads of the function's.
        self._is_busy = False
        self.reads = _Reads(self._note_read_outside)
        # Operators that were taken to spread every entry over every result.
        self.unknown: dict[str, None] = {}

    def start(self, tensor: Tensor, sets: Dependence) -> None:
        """Give a tensor its sets."""
        self._shadows.write(tensor, sets)

    def found(self, tensor: Tensor) -> Dependence | None:
        """The sets of a tensor, None if all are empty."""
        return self._shadows.read(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        was_busy, self._is_busy = self._is_busy, True
        try:
            return self._run(func, args, kwargs or {})
        finally:
            self._is_busy = was_busy

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = [tensor for value in (*args, *kwargs.values()) for tensor in tensors_in(value)]
        draws = isinstance(func, OpOverload) and torch.Tag.nondeterministic_seeded in func.tags
        constant = not (self._has_read or draws) and all(map(self._is_constant, given))
        follows = any(self._shadows.read(tensor) is not None for tensor in given)
        result = func(*args, **kwargs)
        results = list(result) if isinstance(result, list | tuple) else [result]
        if func not in _SHAPES and any(isinstance(entry, bool | int | float | complex) for entry in results):
            for tensor in given:
                self._note_read(tensor, str(func))
        changed = _changed(func, args, kwargs)
        if follows:
            self._follow(func, args, kwargs, results, changed, given)
        for tensor in [*tensors_in(results), *changed]:
            if (storage := storage_of(tensor)) is not None:
                (self._constants.add if constant else self._constants.discard)(storage)
        return result

    def _is_constant(self, tensor: Tensor) -> bool:
        return storage_of(tensor) in self._constants

    def _note_read_outside(self, tensor: Tensor, what: str) -> None:
        if not self._is_busy:
            self._note_read(tensor, what)

    def _note_read(self, tensor: Tensor, what: str) -> None:
        if self._shadows.read(tensor) is not None:
            raise NotImplementedError(
                f"The sparsity pattern cannot be followed: a derivative reads numbers with {what}. Give the pattern."
            )
        # Whatever is made from now on may depend on these numbers.
        self._has_read |= not self._is_constant(tensor)

    def _follow(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        results: Sequence[Any],
        changed: Sequence[Tensor],
        given: Sequence[Tensor],
    ) -> None:
        memory = {storage_of(tensor) for tensor in given}
        is_nested = any(isinstance(entry, list | tuple | dict) for entry in results)
        flat: Sequence[Any] = tensors_in(results) if is_nested else results
        made = [entry if isinstance(entry, Tensor) else None for entry in flat]
        for tensor in made:
            if tensor is not None and not tensor.is_meta and storage_of(tensor) is None:
                raise NotImplementedError(
                    f"The sparsity pattern cannot be followed through {func}, which returns a tensor of type"
                    f" {type(tensor).__name__} and layout {tensor.layout}. Give the pattern."
                )
        is_view = not changed and all(tensor is None or storage_of(tensor) in memory for tensor in made)
        if is_view or (isinstance(func, OpOverload) and torch.Tag.inplace_view in func.tags):
            return
        found = None if is_nested else self._sets_of(func, args, kwargs, made)
        if found is None:
            self.unknown[str(func)] = None
            everything = self._sets.whole([part for part in map(self._shadows.read, given) if part is not None])
            found = [everything] * len(made)
            for tensor in changed:
                self._write(tensor, everything)
        for tensor, sets in zip(made, found, strict=True):
            if tensor is not None:
                self._write(tensor, sets)

    def _write(self, tensor: Tensor, sets: Dependence | None) -> None:
        self._shadows.write(tensor, sets if sets is None else sets.expand(tensor.shape))

    def _sets_of(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], results: list[Tensor | None]
    ) -> Sequence[Dependence | None] | None:
        """The sets of each result, None for an operator that is not known."""
        if not isinstance(func, OpOverload):
            return None
        read = self._shadows.read
        call = Call(func, args, kwargs, results, self._sets, read, self._is_constant, self._connections)
        rule = rule_of(call)
        if rule is not None:
            found = rule(call)
            if found is not None:
                return found
        if torch.Tag.pointwise in func.tags or call.name in UNIONS:
            return [self._sets.union(call.parts(), () if r is None else r.shape) for r in results]
        return self._decomposed(func, args, kwargs)

    def _connections(self, function: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Any:
        """Which entries of a result depend on which entries of an argument of this shape."""
        x = torch.zeros(tuple(shape), dtype=torch.float64, device="cpu")
        following = Following(self._sets, ())
        rows = torch.arange(1, x.numel() + 1, dtype=torch.int32, device="cpu").reshape(x.shape)
        following.start(x, Dependence(rows, self._sets.identity(x.numel())))
        with following:
            part = following.found(function(x))
        return None if part is None or following.unknown else self._sets.matrix(part).tocoo()

    def _decomposed(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Sequence[Dependence | None] | None:
        """The sets of the same results made of other operators, where PyTorch has such a formula."""
        # Here, because loading them takes a second. Private: PyTorch's operators written in other operators.
        from torch._decomp import decomposition_table

        with self:
            if written := written_arguments(func):
                if not all(a.kwarg_only for a in func._schema.arguments if a.name in written):
                    return None
                # The same operator without ``out=``.
                result = func.overloadpacket(*args, **{k: value for k, value in kwargs.items() if k not in written})
            elif (result := func.decompose(*args, **kwargs)) is NotImplemented:
                if func not in decomposition_table:
                    return None
                result = decomposition_table[func](*args, **kwargs)
        results = result if isinstance(result, list | tuple) else [result]
        return [self._shadows.read(entry) if isinstance(entry, Tensor) else None for entry in results]


class _Reads(TorchFunctionMode):
    """Notices what takes the numbers of tensors out of PyTorch without an operator."""

    def __init__(self, note: Callable[[Tensor, str], None]) -> None:
        super().__init__()
        self._note = note

    def enter(self, *gradients: Any) -> None:
        """Enter the mode, as a hook of a node of the graph."""
        self.__enter__()  # type: ignore[no-untyped-call]  # no types there

    def leave(self, *gradients: Any) -> None:
        """Leave the mode, as a hook of a node of the graph."""
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # no types there

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _READERS:
            self._note(args[0], f"Tensor.{func.__name__}")
        return func(*args, **(kwargs or {}))


_READERS = {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.data_ptr, Tensor.__dlpack__}


def _changed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operator writes into."""
    if not isinstance(func, OpOverload) or not (names := written_arguments(func)):
        return []
    given = dict(zip([argument.name for argument in func._schema.arguments], args, strict=False)) | kwargs
    return [tensor for name in names for tensor in tensors_in(given.get(name))]
