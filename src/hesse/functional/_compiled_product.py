"""A product at a new point in each call, by compiled programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hesse._autograd.arguments import check_point, check_tangent
from hesse._autograd.captured import arguments_of
from hesse._base import trees
from hesse._linearize.differentiable import without_derivative
from hesse._linearize.options import Verify
from hesse._operators.hessian import Hessian
from hesse.functional._gradient import refuse_inside


class CompiledProduct:
    """Computes ``(product, aux)`` of the Hessian of a scalar function, at whatever point it is called.

    Args:
        name: what errors call the entry that the function was given to.
    """

    def __init__(
        self, name: str, func: Callable[..., Any], argnums: int | tuple[int, ...], *, has_aux: bool, verify: Verify
    ) -> None:
        self._name, self._func, self._argnums, self._has_aux = name, func, argnums, has_aux
        self._verify = verify
        self._last: Hessian | None = None

    def __call__(self, inputs: tuple[Any, ...], v: Any) -> tuple[Any, Any]:
        """The product, structured like what is differentiated by, and the auxiliary output."""
        refuse_inside(self._name)
        point = check_point(self._name, self._func, inputs, self._argnums)
        entries = check_tangent(self._name, v, point)
        vector = point.spec.rebuild([entry.detach() for entry in entries])
        if self._last is None:
            H = Hessian(
                self._func,
                inputs,
                argnums=self._argnums,
                has_aux=self._has_aux,
                engine="compiled",
                verify=self._verify,
                expect=1,
            )
        else:
            H = self._last.at(inputs)
        self._last = H
        product = list(trees.leaves(H @ vector))
        if torch.is_grad_enabled():
            # The program has just asked what the function reaches.
            captured = [value for _, value in H._point.engines.reading.last() if isinstance(value, torch.Tensor)]
            tensors = [*entries, *[tensor for _, tensor in arguments_of(point)], *captured]
            followed = [tensor for tensor in tensors if tensor.requires_grad]
            if followed:
                product = without_derivative(
                    f'A product by {self._name} with engine="compiled" has no derivative. Use engine="tape".',
                    product,
                    followed,
                )
        return point.spec.rebuild(product), H.aux if self._has_aux else None
