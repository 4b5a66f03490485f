"""``jacobian``: the whole Jacobian of a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from hesse._autograd.arguments import Argnums, check_point, evaluate, without_history
from hesse._autograd.evaluation import differentiate, inside_transform
from hesse._autograd.refusal import located
from hesse._base.devices import generator_states, put_back
from hesse._base.trees import Spec
from hesse.functional import _compiling as compiling
from hesse.functional import _rows as rows

Strategy = Literal["reverse-mode", "forward-mode"]


def jacobian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: Strategy = "reverse-mode",
    *,
    has_aux: bool = False,
    argnums: Argnums = None,
) -> Any:
    r"""The Jacobian of a function, :math:`\partial f_i / \partial x_j`.

    Keeps the contract of ``torch.autograd.functional.jacobian``.

    Args:
        func: takes the inputs, returns a real tensor or a structure of them.
        inputs: a floating-point or complex tensor, or a structure of them; an outermost tuple is splatted.
        create_graph: make the result differentiable. Not with ``strategy="forward-mode"``.
        strict: raise when some input is not connected to an output. Not with ``vectorize=True``.
        vectorize: all rows (columns, in forward mode) in one batched pass instead of one pass each. Inside a
            torch.func transform, where a batched backward cannot run, rows come one by one all the same.
        strategy: ``"reverse-mode"`` or ``"forward-mode"``; the latter needs ``vectorize=True``.
        has_aux: ``func`` returns ``(outputs, aux)``, and ``(jacobian, aux)`` is returned.
        argnums: which arguments to differentiate by, as an index or a tuple of them, when not all.

    Returns:
        A structure like the outputs whose entries are structures like the inputs whose entries have shape
        ``output.shape + input.shape``, in the input's dtype (in forward mode, the output's).

    Raises:
        TypeError: something in ``inputs`` or the outputs is no tensor.
        RuntimeError: strict mode finds an unconnected input, or is combined with ``vectorize``.
        NotImplementedError: forward mode without ``vectorize``, or with ``create_graph``.

    Source:
        The contract: https://docs.pytorch.org/docs/stable/generated/torch.autograd.functional.jacobian.html

    Example:
        >>> import torch, hesse
        >>> hesse.functional.jacobian(lambda x: x**2, torch.tensor([1.0, 3.0]))
        tensor([[2., 0.],
                [0., 6.]])
    """
    compiling.refuse("jacobian")
    check_modes("jacobian", create_graph, strict, vectorize, strategy, has_aux)
    point = check_point("jacobian", func, inputs, argnums)
    keep_graph = create_graph or inside_transform()

    def jacobian_at(x: tuple[Tensor, ...]) -> Any:
        if strategy == "forward-mode":
            specs: list[Spec] = []

            def outputs_at(duals: tuple[Tensor, ...]) -> list[Tensor]:
                outputs, *specs[:], _ = evaluate("jacobian", point, duals, strict, has_aux)
                return outputs

            states = generator_states()
            try:
                blocks = rows.by_columns(outputs_at, x)
            except RuntimeError as error:
                if "mutate a captured Tensor" not in str(error) or inside_transform():
                    raise
                # torch.func knows no function that writes into a captured tensor.
                put_back(states)
                outputs = outputs_at(x)
                columns = rows.by_batch(outputs, x, False)
                blocks = [
                    [block.to(output.dtype) for block in row] for row, output in zip(columns, outputs, strict=True)
                ]
            (outputs_spec,), aux = specs, None
        else:
            outputs, outputs_spec, aux = evaluate("jacobian", point, x, strict, has_aux)
            if vectorize and not inside_transform():
                blocks = rows.by_batch(outputs, x, keep_graph)
            else:
                blocks = rows.by_rows(outputs, x, keep_graph, strict)
        return outputs_spec.rebuild([point.spec.rebuild(block) for block in blocks]), aux

    result = located("jacobian", func, inputs, lambda: differentiate(jacobian_at, point.leaves, create_graph))
    result = without_history(result, keep_graph)
    return result if has_aux else result[0]


def check_modes(name: str, create_graph: bool, strict: bool, vectorize: bool, strategy: str, has_aux: bool) -> None:
    """Refuse the combinations of modes that the contract refuses."""
    if strategy not in ("forward-mode", "reverse-mode"):
        raise AssertionError(
            f'Expected the strategy given to {name} to be either "forward-mode" or "reverse-mode" but got {strategy!r}.'
        )
    if strategy == "forward-mode" and create_graph:
        raise NotImplementedError(
            f"{name}: `create_graph=True` and the forward-mode strategy are not supported together (yet)."
            " Please either set `create_graph=False` or use the reverse-mode strategy."
        )
    if strategy == "forward-mode" and strict:
        raise RuntimeError(
            f"{name}: `strict=True` and the forward-mode strategy are not supported together (yet)."
            " Please either set `strict=False` or use the reverse-mode strategy."
        )
    if strategy == "forward-mode" and not vectorize:
        raise NotImplementedError(f"{name}: the forward-mode strategy is only implemented for `vectorize=True`.")
    if strategy == "forward-mode" and has_aux:
        raise NotImplementedError(
            f"{name}: `has_aux=True` and the forward-mode strategy are not supported together."
            " Please use the reverse-mode strategy."
        )
    if vectorize and strict:
        raise RuntimeError(
            f"{name}: `strict=True` and `vectorize=True` are not supported together. Please either set"
            " `strict=False` or `vectorize=False`."
        )
