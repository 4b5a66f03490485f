"""``sparse_hessian``: the Hessian of a function as a sparse matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hesse._autograd.arguments import Argnums
from hesse._linearize.choice import Choice
from hesse._linearize.options import Name
from hesse._operators.hessian import Hessian
from hesse._operators.sparse import to_sparse


def sparse_hessian(
    func: Callable[..., Any],
    inputs: Any,
    pattern: Any = None,
    *,
    has_aux: bool = False,
    argnums: Argnums = None,
    engine: Name | Choice = "auto",
    memory: int | str | None = None,
) -> Tensor:
    r"""The Hessian of a scalar function, :math:`\nabla^2 f(x)`, as a sparse tensor in compressed rows.

    A Hessian with a few entries a row takes a few products, whatever its size: columns that do not meet share one. The
    rows and columns count the elements of the inputs, leaf after leaf. For many points make a
    :class:`hesse.Hessian` once: its ``to_sparse()`` keeps the pattern and the colors over ``at()``.

    Args:
        func: takes the inputs, returns a real tensor with a single element.
        inputs: a tensor or a structure of them; an outermost tuple is splatted into ``func``.
        pattern: where entries may be, as :meth:`hesse.Operator.to_sparse` takes it; found from ``func`` when left out.
        has_aux, argnums, engine, memory: as for :class:`hesse.Hessian`.

    Returns:
        A tensor (n, n) of layout ``torch.sparse_csr``, symmetric to the bit; ``hesse.to_scipy`` makes SciPy's of it.

    Raises:
        TypeError, ValueError, MemoryBudgetError, ImportError: as :meth:`hesse.Operator.to_sparse`.

    Source:
        Gebremedhin, Tarafdar, Manne and Pothen, "New acyclic and star coloring algorithms with application to computing
        Hessians", SIAM Journal on Scientific Computing 29 (2007).

    Example:
        >>> import torch, hesse
        >>> S = hesse.sparse_hessian(lambda x: (x[1:] * x[:-1] ** 2).sum(), torch.arange(4.0))
        >>> S.to_dense()
        tensor([[2., 0., 0., 0.],
                [0., 4., 2., 0.],
                [0., 2., 6., 4.],
                [0., 0., 4., 0.]])
    """
    H = _Hessian(func, inputs, has_aux=has_aux, argnums=argnums, engine=engine, memory=memory)
    return to_sparse(H, pattern, "sparse_hessian")


class _Hessian(Hessian):
    _entry = "sparse_hessian"
