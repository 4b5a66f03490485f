"""``Jacobian``: the Jacobian of a function at a point, as an operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hesse._autograd.arguments import Argnums, check_point, evaluate, without_history
from hesse._autograd.captured import tensors_of
from hesse._base import trees
from hesse._base.space import Space
from hesse._linearize.chunks import Mode
from hesse._linearize.engines import Choice, Engine, Name
from hesse._linearize.guard import Guard
from hesse._linearize.protocol import Selection
from hesse._operators.linearized import Linearized, Options


class Jacobian(Linearized):
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
        engine: Name | Choice | Engine = "auto",
        verify: bool = True,
        memory: int | str | None = None,
        expect: int | None = None,
    ) -> None:
        self._func = func
        options = Options.of(
            engine,
            batching,
            has_aux=has_aux,
            argnums=argnums,
            create_graph=create_graph,
            verify=verify,
            memory=memory,
            expect=expect,
        )
        point = check_point("Jacobian", func, inputs, argnums)

        def outputs_at(x: tuple[Tensor, ...]) -> tuple[list[Tensor], Any]:
            outputs, spec, aux = evaluate("Jacobian", point, x, False, has_aux)
            for path, output in zip(spec.paths, outputs, strict=True):
                if not (output.dtype.is_floating_point or output.dtype.is_complex):
                    raise TypeError(
                        "The outputs of the function given to Jacobian must be floating-point or complex but"
                        f" {trees.path_name(path) or 'the Tensor'} has dtype {output.dtype}. Return it as aux."
                    )
            return outputs, (spec, without_history(aux, create_graph))

        made = options.made_engine(func, ("rmatvec", "matvec"), point.leaves[0].device)
        linearization = made.linearize(outputs_at, point.leaves, inputs, name="Jacobian")
        spec, self.aux = linearization.aux
        self.value = spec.rebuild(linearization.outputs)
        super().__init__(
            made,
            linearization,
            Guard("Jacobian", tensors_of(func, inputs, point)),
            options,
            Space(point.leaves, point.spec, "Jacobian"),
            Space(linearization.outputs, spec, "Jacobian"),
            Selection(tuple(range(len(linearization.outputs))), tuple(range(len(point.leaves)))),
            symmetric=False,
        )

    def at(self, inputs: Any) -> Jacobian:
        """The Jacobian of the same function at other inputs, or at the same ones as they are now."""
        return Jacobian(self._func, inputs, **self._options.at(self._engine))._inherit(self)
