"""torch.autograd.grad over leaves, and what strict mode says when a connection is missing.

Strict mode tests connection in the graph, not mathematics. The texts are PyTorch's, since programs match them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from hesse._autograd import cut_history, engine, opaque
from hesse._autograd.graph import Edge
from hesse._autograd.missing import MissingDerivative as MissingDerivative
from hesse._base.errors import NoDerivativeError
from hesse._rules import scope

Gradients = tuple[Tensor | None, ...]
Output = Tensor | GradientEdge
"""A tensor, or its place in a graph, which keeps no values."""
Stage = Literal["back", "back_trick", "double_back", "double_back_trick"]

_NOT_CONNECTED = {
    "back": "The output of the user-provided function is independent of input {i}. This is not allowed in strict mode.",
    "back_trick": "The gradient with respect to the input is independent of entry {i} in the grad_outputs when"
    " using the double backward trick to compute forward mode gradients. This is not allowed in strict mode.",
    "double_back": "The jacobian of the user-provided function is independent of input {i}."
    " This is not allowed in strict mode.",
    "double_back_trick": "The hessian of the user-provided function is independent of entry {i} in the"
    " grad_jacobian. This is not allowed in strict mode as it prevents from using the double backward trick to"
    " replace forward mode AD.",
}


def gradients(
    outputs: Sequence[Output | None],
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor | None] | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    batched: bool = False,
) -> Gradients:
    """cotangentsᵀ · ∂outputs/∂inputs, with None for an input that no output is connected to.

    Outputs that are None or require no gradients are passed over. Raises :class:`MissingDerivative`.
    """
    if cotangents is None:
        cotangents = [None] * len(outputs)
    # A loop, since comprehensions are calls and a replay of a small function makes few others.
    followed: list[Output] = []
    given: list[Tensor | None] = []
    # Modes that watch functions of PyTorch see autograd.grad.
    is_checked = engine.run is not None and not batched and not torch._C._len_torch_function_stack()
    for output, cotangent in zip(outputs, cotangents, strict=True):
        if output is None or not (isinstance(output, GradientEdge) or output.requires_grad):
            continue
        followed.append(output)
        if is_checked and (type(output) is Edge or type(output) is Tensor):
            if cotangent is None and type(output) is Tensor and output.numel() == 1 and output.dtype.is_floating_point:
                cotangent = torch.ones_like(output)
            is_checked = (
                type(cotangent) is Tensor and output.shape == cotangent.shape and output.dtype == cotangent.dtype
            )
        else:
            is_checked = False
        given.append(cotangent)
    if not followed:
        return (None,) * len(inputs)
    compute: Callable[[], Gradients]
    if is_checked and engine.run is not None:
        compute = functools.partial(
            engine.run,
            tuple(followed),
            tuple(given),
            create_graph if retain_graph is None else retain_graph,
            create_graph,
            tuple(inputs),
            True,
            accumulate_grad=False,
        )
    else:
        compute = functools.partial(
            torch.autograd.grad,
            followed,
            inputs,
            given,
            allow_unused=True,
            create_graph=create_graph,
            retain_graph=retain_graph,
            is_grads_batched=batched,
        )
    try:
        if not (create_graph and cut_history.may_exist()):
            found = compute()
        else:
            with cut_history.refused([output for output in followed if isinstance(output, Tensor)]):
                found = compute()
    except RuntimeError as error:
        missing = MissingDerivative.of_error(error)
        if missing is None or isinstance(error, NoDerivativeError | MissingDerivative):
            raise
        raise missing from error
    for gradient in found:
        # Zeros without memory, the derivative of a sign: they can be neither changed nor read by NumPy.
        if gradient is not None and gradient._is_zerotensor():
            return tuple([entry if entry is None else entry.clone() for entry in found])
    return found


def followed_gradients(
    outputs: Sequence[Tensor | None], inputs: Sequence[Tensor], cotangents: Sequence[Tensor] | None = None
) -> Gradients:
    """:func:`gradients` with their graph, which is to be differentiated: what autograd would miss there is refused."""
    handles = opaque.watch([output for output in outputs if output is not None], inputs)
    try:
        found = gradients(outputs, inputs, cotangents, create_graph=True)
        opaque.refuse_hooks_of_inputs(inputs, found)
        return found
    except RuntimeError as error:
        if "backward through the graph a second time" not in str(error) or isinstance(error, MissingDerivative):
            raise
        raise MissingDerivative(
            "torch.autograd.grad",
            "it frees its own graph, as torch.autograd.grad does without create_graph=True",
            "Pass create_graph=True there; many models that compute forces do so in training mode.",
        ) from error
    finally:
        for handle in handles:
            handle.remove()


def gradient_to_multiply(output: Tensor, x: Sequence[Tensor], keep_graph: bool) -> Gradients:
    """∂output/∂x with its graph: to be differentiated once more, and again only with ``keep_graph``."""
    held = scope.once_more(not keep_graph)
    try:
        return followed_gradients((output,), x)
    finally:
        scope.once_more(held)


def zeros_where_none(grads: Gradients, references: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradients, with zeros (the mathematical value) where nothing was connected."""
    return tuple(
        [
            torch.zeros_like(reference) if grad is None else grad
            for grad, reference in zip(grads, references, strict=True)
        ]
    )


def unaliased(results: Sequence[Tensor], vectors: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
    """The results, each with memory of its own: a user may change one in place, and nothing else changes.

    Autograd may hand a vector through, give two inputs one gradient, or expand a single number.
    """
    taken = set(map(memory_of, vectors))
    owned = []
    for result in results:
        storage = memory_of(result)
        if storage is not None and (storage in taken or 0 in result.stride()):
            result = result.clone()
            storage = memory_of(result)
        if storage is not None:
            taken.add(storage)
        owned.append(result)
    return tuple(owned)


def owned(product: Tensor, vector: Tensor) -> Tensor:
    """As ``unaliased``, of one product that is dense."""
    return product.clone() if _is_alias(product, vector) or 0 in product.stride() else product


def _have_one_memory(one: Tensor, other: Tensor) -> bool:
    where = memory_of(one)
    return where is not None and where == memory_of(other)


def _probed() -> Callable[[Tensor, Tensor], bool]:
    """Asks in C, where PyTorch can be asked; it has no public name."""
    found: Callable[[Tensor, Tensor], bool] | None = getattr(torch._C, "_is_alias_of", None)
    one = torch.zeros(2, device="cpu")
    try:
        is_known = found is not None and found(one, one[1:]) and not found(one, one.clone())
    except Exception:
        is_known = False
    return found if found is not None and is_known else _have_one_memory


_PLAIN = frozenset({Tensor, torch.nn.Parameter})


def memory_of(tensor: Tensor) -> int | None:
    """The address of a tensor's memory, or None where it has none to show."""
    try:
        # The same without the memory's own object, which takes longer to make than a small product. Modes that watch
        # methods of tensors would take it for a look at the numbers.
        if type(tensor) in _PLAIN and not torch._C._len_torch_function_stack():
            start, offset = tensor.data_ptr(), tensor.storage_offset()
            return (start - int(offset) * tensor.element_size() if offset and start else start) or None
        memory = tensor.untyped_storage()
        # A stand-in without data says where its data would be; its memory says that there is none.
        return None if memory.device.type == "meta" else memory.data_ptr() or None
    except RuntimeError:  # sparse tensors, wrapper subclasses and the tensors of torch.func have none to show
        return None


_is_alias = _probed()


def require_connection(grads: Gradients, stage: Stage, create_graph: bool) -> None:
    """Strict mode's last test: every product is connected, and with ``create_graph`` differentiable again."""
    for i, grad in enumerate(grads):
        if grad is None:
            raise RuntimeError(_NOT_CONNECTED[stage].format(i=i))
        if create_graph and not grad.requires_grad:
            order = "hessian" if stage.startswith("double") else "jacobian"
            raise RuntimeError(
                f"The {order} of the user-provided function is independent of input {i}."
                " This is not allowed in strict mode when create_graph=True."
            )


def require_outputs(outputs: Sequence[Tensor]) -> None:
    """Strict mode's first test: every output requires gradients."""
    for i, output in enumerate(outputs):
        if not output.requires_grad:
            raise RuntimeError(
                f"Output {i} of the user-provided function does not require gradients. The outputs must be"
                " computed in a differentiable manner from the input when running in strict mode."
            )


def require_jacobian(jacobian: Gradients) -> None:
    """Strict mode's test of a gradient that is to be differentiated again."""
    for i, grad in enumerate(jacobian):
        if grad is None:
            raise RuntimeError(_NOT_CONNECTED["back"].format(i=i))
        if not grad.requires_grad:
            raise RuntimeError(
                "While computing the hessian, found that the jacobian of the user-provided function with respect"
                f" to input {i} is independent of the input. This is not allowed in strict mode. You should ensure"
                " that your function is twice differentiable and that the jacobian depends on the inputs (this"
                " would be violated by a linear function for example)."
            )


def require_trick(grads: Gradients) -> None:
    """Strict mode's test of Jᵀw, which jvp differentiates by w."""
    for i, grad in enumerate(grads):
        if grad is None:
            raise RuntimeError(_NOT_CONNECTED["back"].format(i=i))
        if not grad.requires_grad:
            raise RuntimeError(
                f"The gradient with respect to input {i} is independent of the inputs of the user-provided"
                " function. This is not allowed in strict mode."
            )


def require_hessian(products: Gradients) -> None:
    """Strict mode's test of Hᵀw, which hvp differentiates by w; PyTorch's own tests the gradient again instead."""
    for i, product in enumerate(products):
        if product is None or not product.requires_grad:
            raise RuntimeError(
                f"The hessian of the user-provided function with respect to input {i} is independent of the input."
                " This is not allowed in strict mode. You should ensure that your function is thrice"
                " differentiable and that the hessian depends on the inputs."
            )
