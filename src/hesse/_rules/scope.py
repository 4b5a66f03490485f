"""Where rules hold: on this thread, and on the threads of its backwards, while a product is made.

PyTorch's dispatcher asks, at each operator, for the kernel of the highest *dispatch key* in a set that belongs to
the thread. Rules are kernels at a key that is in that set only inside of hesse, so nothing outside can reach them:
neither another thread nor a transform, and not after an exception either, since the set is put back. Autograd hands
the set on to the threads that run a backward. All operators without a rule pass the key over, at no cost.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from hesse._base import handed_on

# PyTorch keeps no dispatch key for other libraries. This one is reserved, used by nothing that is shipped, and the
# highest but for those of tracers: above the transforms of torch.func, so that a rule meets an operator before they
# do, as a torch.autograd.Function that is called by the user would. A second library that took it would raise here.
_KEY_NAME = "TESTING_ONLY_GenericMode"
_KEY = torch._C._dispatch_key_parse(_KEY_NAME)

# Guards of dispatch keys are private too, and ten times slower than the two functions they call.
_is_included = torch._C._dispatch_tls_is_dispatch_key_included
_set_included = torch._C._dispatch_tls_set_dispatch_key_included

_everything = torch.library.Library("_", "IMPL")  # type: ignore[no-untyped-call]  # no types there
_everything.fallback(torch.library.fallthrough_kernel, _KEY_NAME)  # type: ignore[no-untyped-call]  # no types there

# Operators that take functions (torch.cond, a torch.autograd.Function under a transform) are dispatched in Python, by a
# copy of the dispatcher that knows no fallback: those there are, and those that will be made, pass the key over too.
torch._ops._HIGHER_ORDER_OP_DEFAULT_FALLTHROUGH_DISPATCH_KEYS.append(_KEY)
for _operator in torch._ops._higher_order_ops.values():
    _operator.fallthrough(_KEY)  # type: ignore[no-untyped-call]  # no types there


# No public name tells; the test of transforms fails if this one moves.
transform_level = torch._C._functorch.maybe_current_level
"""``transform_level()``: the level of the innermost torch.func transform around the call, or None."""


def inside_transform() -> bool:
    """Whether the call stands inside vmap, grad, vjp, jvp or another torch.func transform."""
    return transform_level() is not None


def within_transform() -> bool:
    """Whether the call comes from inside of PyTorch's own code for a transform, such as a formula of forward mode.

    There a torch.autograd.Function cannot be called; each level of the transforms sees plain operations instead.
    """
    return torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.FuncTorchDynamicLayerFrontMode)


hold = functools.partial(_is_included, _KEY)
"""``hold()``: whether rules hold on this thread."""

put_back = functools.partial(_set_included, _KEY)
"""``put_back(held)``: say whether rules hold on this thread."""


def put(here: bool) -> bool:
    """Say whether rules hold on this thread; what was said before is returned, for ``put_back``."""
    held: bool = hold()
    put_back(here)
    return held


ONCE_MORE = "hesse.once_more"
"""Key of what ``once_more`` said, in the storage PyTorch hands on to a backward's threads."""


def differentiated_once_more() -> bool:
    """Whether what is computed now will be differentiated once more at most."""
    return bool(torch._C._is_key_in_tls(ONCE_MORE) and torch._C._get_obj_in_tls(ONCE_MORE))


def once_more(here: bool) -> bool:
    """Say whether what is computed on this thread will be differentiated once more at most; gives what was said before.

    Some of PyTorch's double backwards are right, but have wrong derivatives themselves. Their rules are slower, and
    are not needed while a gradient is computed for its products alone.
    """
    before = differentiated_once_more()
    handed_on.put(ONCE_MORE, here)
    return before


def operator_of(name: str) -> Any:
    """The operator of that name, or None where this release or build of PyTorch has none.

    Operators are "aten::name" or "aten::name.overload", those that take functions "higher_order::name".
    """
    namespace, _, rest = name.partition("::")
    if namespace == "higher_order":
        return torch._ops._higher_order_ops.get(rest)
    packet, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet, None), overload or "default", None)


def intercept(name: str, kernel: Callable[..., Any]) -> None:
    """Call ``kernel`` for the operator ``name``, if there is one, wherever rules hold. It runs where they do not."""
    found = operator_of(name)
    if found is None:
        return

    def outside(*args: Any, **kwargs: Any) -> Any:
        held = put(False)
        try:
            return kernel(*args, **kwargs)
        finally:
            put_back(held)

    namespace, _, operator = name.partition("::")
    if namespace == "higher_order":
        found.py_impl(_KEY)(outside)
    else:
        _library(namespace).impl(operator, outside, _KEY_NAME)  # type: ignore[no-untyped-call]  # no types there


_BELOW = torch._C._dispatch_keyset_full_after(_KEY)


def take_apart(name: str) -> None:
    """Let rules see what an operator, if there is one, is made of, also where a transform would see the whole first.

    Autocast has to see the whole, so that it chooses the precision.
    """
    operator = operator_of(name)
    if operator is None:
        return

    def kernel(keys: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
        if inside_transform() and not torch.is_autocast_enabled(args[0].device.type):
            return operator.decompose(*args, **kwargs)
        return operator.redispatch(keys & _BELOW, *args, **kwargs)

    namespace, _, overload = name.partition("::")
    _library(namespace).impl(overload, kernel, _KEY_NAME, with_keyset=True)  # type: ignore[no-untyped-call]  # no types there


@functools.cache
def _library(namespace: str) -> torch.library.Library:
    return torch.library.Library(namespace, "IMPL")  # type: ignore[no-untyped-call]  # no types there
