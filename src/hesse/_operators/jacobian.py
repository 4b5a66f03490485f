"""``Jacobian``: the Jacobian of a function at a point, as an operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._autograd.arguments import Argnums, check_point, evaluate, without_history
from hesse._autograd.dependence import followed_function, require_dependence
from hesse._autograd.thread_state import untraced
from hesse._base import trees
from hesse._base.space import Space
from hesse._linearize.choice import Choice
from hesse._linearize.engines import Engines, Linearize
from hesse._linearize.options import Mode, Name, Options, Verify
from hesse._linearize.protocol import Leaves, Linearization, Selection
from hesse._operators.function_point import FunctionPoint
from hesse._operators.point import PointOperator
from hesse._operators.terms import Part
from hesse._sparse.given import Pattern


class Jacobian(PointOperator):
    r"""The Jacobian of a function at a point, :math:`J = \partial f / \partial x`, as an operator.

    ``func`` runs exactly once. ``J.T @ u`` is one backward through its kept graph; ``J @ v`` one backward
    through the graph of :math:`J^\top w`, made at the first such product (the double-backward trick).

    Args:
        func: takes the inputs, returns a floating-point or complex tensor, or a structure of them.
        inputs: a floating-point or complex tensor, or a structure of them; an outermost tuple is splatted.
        has_aux: ``func`` returns ``(outputs, aux)``; ``J.aux`` is the second.
        argnums: which arguments to differentiate by, as an index or a tuple of them, when not all.
        create_graph: make value and products differentiable.
        batching: ``"loop"``, ``"vmap"`` or ``"auto"``, as for :class:`hesse.Hessian`.
        engine, verify, memory, expect: as for :class:`hesse.Hessian`.

    Attributes:
        value: ``func(inputs)``, structured as the function returns it.
        aux: the auxiliary output, or None.
        shape: (m, n), the elements of the outputs and of the inputs, complex ones twice.
        dtype, device: of flat vectors.

    Raises:
        TypeError: something in ``inputs`` or the outputs is no tensor.
        CaptureError: ``engine="compiled"`` cannot take ``func``.
        MemoryBudgetError: at a product, when not even one vector at a time stays within ``memory``.
        StalePointError: at a product, when an input or a tensor that ``func`` captures has changed in place.

    Source:
        The trick: https://j-towns.github.io/2017/06/12/A-new-trick.html

    Example:
        >>> import torch, hesse
        >>> J = hesse.Jacobian(lambda x: torch.stack([x.sum(), x.prod()]), torch.tensor([2.0, 3.0]))
        >>> J @ torch.tensor([1.0, 0.0]), J.T @ torch.tensor([0.0, 1.0])
        (tensor([1., 3.]), tensor([3., 2.]))
    """

    def __init__(
        self,
        func: Callable[..., Any],
        inputs: Any,
        *,
        has_aux: bool = False,
        argnums: Argnums = None,
        create_graph: bool = False,
        batching: Mode = "auto",
        engine: Name | Choice = "auto",
        verify: Verify = True,
        memory: int | str | None = None,
        expect: int | None = None,
    ) -> None:
        self._func, self._has_aux, self._argnums = func, has_aux, argnums
        options = Options(engine, batching, verify, expect, memory, create_graph)
        untraced(self._move)(inputs, Engines(options, func), None)

    def _move(self, inputs: Any, engines: Engines, earlier: Any) -> None:
        """Take the point: evaluate the function, once."""
        func, has_aux = self._func, self._has_aux
        at = check_point("Jacobian", func, inputs, self._argnums)
        self._at, self._inputs = at, inputs
        followed = followed_function("Jacobian", func, inputs, at, has_aux)

        def outputs_at(x: tuple[Tensor, ...]) -> tuple[list[Tensor], Any]:
            outputs, spec, aux = evaluate("Jacobian", at, x, False, has_aux)
            for path, output in zip(spec.paths, outputs, strict=True):
                if not (output.dtype.is_floating_point or output.dtype.is_complex):
                    raise TypeError(
                        "The outputs of the function given to Jacobian must be floating-point or complex but"
                        f" {trees.path_name(path) or 'the Tensor'} has dtype {output.dtype}. Return it as aux."
                    )
            require_dependence("Jacobian", "a function whose output", outputs, x, followed)
            return outputs, (spec, without_history(aux, engines.options.create_graph))

        def term(linearize: Linearize) -> JacobianTerm:
            return JacobianTerm(linearize("jacobian", outputs_at, at.leaves, inputs), at.leaves)

        variables = Space(at.leaves, at.spec, "Jacobian")
        point = FunctionPoint(variables, engines, term, at)
        (linearization,) = point.term.linearizations
        spec, self.aux = linearization.aux
        self.value = spec.rebuild(linearization.outputs)
        point.whole = Part(point.whole.sources, tuple(range(len(linearization.outputs))))
        range_ = Space(linearization.outputs, spec, "Jacobian")
        super().__init__(point, point.whole, variables, range_, symmetric=False)

    def _find_pattern(self) -> Pattern:
        # It loads SciPy's sparse matrices, which other questions do not need.
        from hesse._sparse.detection import jacobian_pattern_of_map

        def outputs_at(x: tuple[Tensor, ...]) -> tuple[list[Tensor], Any]:
            return evaluate("Jacobian", self._at, x, False, self._has_aux)[0], None

        memory = self._point.engines.options.memory
        found: Pattern = jacobian_pattern_of_map("Jacobian", outputs_at, self._at, self._func, self._inputs, memory)
        return found

    def at(self, inputs: Any) -> Jacobian:
        """The Jacobian of the same function at other inputs, or at the same ones as they are now."""
        return self._moved(inputs)


class JacobianTerm:
    """The Jacobian of a function: the linearization itself."""

    gradient: Sequence[Tensor] = ()

    def __init__(self, linearization: Linearization, variables: Sequence[Tensor]) -> None:
        self._linearization, self._variables = linearization, variables
        self.linearizations: Sequence[Linearization] = [linearization]
        self.count: float | None = 1.0
        self.value = torch.zeros((), device="cpu")

    def multiply(
        self, vectors: Leaves, part: Part, *, transposed: bool = False, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """J·v, or Jᵀ·u."""
        if transposed:
            return self._linearization.rmatvec(vectors, Selection(*part), batched=batched)
        return self._linearization.matvec(vectors, Selection(part.targets, part.sources), batched=batched)

    def release_gradient(self) -> int:
        """There is none."""
        return 0

    def kept_bytes(self, beside: Sequence[Tensor]) -> int:
        """Bytes that are kept alive for products."""
        return self._linearization.kept_bytes([*self._variables, *beside])
