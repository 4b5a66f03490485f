"""``hessian``: the whole Hessian of a scalar function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hesse._autograd.arguments import Argnums, check_point, evaluate_scalar, without_history
from hesse._autograd.evaluation import differentiate, inside_transform
from hesse._autograd.gradients import followed_gradients, require_jacobian, zeros_where_none
from hesse._autograd.refusal import located
from hesse.functional import _compiling as compiling
from hesse.functional import _rows as rows
from hesse.functional._jacobian import Strategy, check_modes


def hessian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: Strategy = "reverse-mode",
    *,
    has_aux: bool = False,
    argnums: Argnums = None,
) -> Any:
    r"""The Hessian of a scalar function, :math:`\partial^2 f / \partial x_i \partial x_j`.

    Keeps the contract of ``torch.autograd.functional.hessian``: the Jacobian of the gradient.

    Args:
        func: takes the inputs, returns a real tensor with a single element, of any shape.
        inputs: a floating-point or complex tensor, or a structure of them; an outermost tuple is splatted.
        create_graph: make the result differentiable. Not with the forward-mode strategy.
        strict: raise when some input is not connected to the output or its gradient. Not with ``vectorize``.
        vectorize: all rows (columns, in forward mode) in one batched pass instead of one pass each. Inside a
            torch.func transform, where a batched backward cannot run, rows come one by one all the same.
        outer_jacobian_strategy: ``"reverse-mode"`` or ``"forward-mode"`` for the outer derivative; the
            latter needs ``vectorize=True``.
        has_aux: ``func`` returns ``(output, aux)``, and ``(hessian, aux)`` is returned.
        argnums: which arguments to differentiate by, as an index or a tuple of them, when not all.

    Returns:
        A structure like the inputs of structures like the inputs: entry ``[i][j]`` has the shape
        ``input_i.shape + input_j.shape``; for a single tensor, one tensor.

    Raises:
        TypeError: something in ``inputs`` or the outputs is no tensor.
        RuntimeError: ``func`` returns no single element, or strict mode finds an unconnected input.
        NotImplementedError: forward mode without ``vectorize``, or with ``create_graph``.

    Source:
        The contract: https://docs.pytorch.org/docs/stable/generated/torch.autograd.functional.hessian.html

    Example:
        >>> import torch, hesse
        >>> hesse.functional.hessian(lambda x: x.prod() ** 2, torch.tensor([1.0, 2.0]))
        tensor([[8., 8.],
                [8., 2.]])
    """
    compiling.refuse("hessian")
    check_modes("hessian", create_graph, strict, vectorize, outer_jacobian_strategy, has_aux)
    point = check_point("hessian", func, inputs, argnums)
    keep_graph = create_graph or inside_transform()

    def hessian_at(x: tuple[Tensor, ...]) -> Any:
        kept: list[Any] = []

        def gradient_at(x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            output, *kept[:] = evaluate_scalar("hessian", point, x, strict, has_aux)
            gradient = zeros_where_none(followed_gradients((output,), x), x)
            if strict:
                require_jacobian(gradient)
            return gradient

        if outer_jacobian_strategy == "forward-mode":
            blocks = rows.by_columns(lambda duals: differentiate(gradient_at, duals, True), x)
        elif vectorize and not inside_transform():
            blocks = rows.by_batch(gradient_at(x), x, keep_graph)
        else:
            blocks = rows.by_rows(gradient_at(x), x, keep_graph, strict)
        return point.spec.rebuild([point.spec.rebuild(block) for block in blocks]), kept[0]

    result = located("hessian", func, inputs, lambda: differentiate(hessian_at, point.leaves, create_graph))
    result = without_history(result, keep_graph)
    return result if has_aux else result[0]
