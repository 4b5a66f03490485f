"""``Hessian``: the Hessian of a scalar function at a point, as an operator."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch.distributed as dist
from torch import Tensor

from hesse._autograd.arguments import Argnums, check_point, evaluate_scalar, without_history
from hesse._autograd.arguments import Point as At
from hesse._autograd.dependence import Followed, followed_function, require_dependence
from hesse._autograd.gradients import gradient_to_multiply, zeros_where_none
from hesse._autograd.thread_state import untraced
from hesse._base import trees
from hesse._base.space import Space
from hesse._base.trees import Key
from hesse._linearize.choice import Choice
from hesse._linearize.engines import Engines, Linearize
from hesse._linearize.options import Mode, Name, Options, Verify
from hesse._linearize.protocol import Leaves, Linearization, Map
from hesse._operators import independent
from hesse._operators.block import Block
from hesse._operators.function_point import FunctionPoint
from hesse._operators.point import PointOperator
from hesse._operators.shared_point import SharedPoint
from hesse._operators.sharing import at_point
from hesse._operators.terms import HessianTerm, Part
from hesse._ranks.group import Ranks
from hesse._sparse.given import Pattern


class Hessian(PointOperator):
    r"""The Hessian of a scalar function at a point, :math:`H = \nabla^2 f(x)`, as an operator.

    ``func`` runs exactly once, when the operator is made, and draws its random numbers once. Each product is one
    backward through the kept graph of the gradient, or one call of a compiled program. To make a program, ``func`` runs
    once more on stand-ins that have shapes and no values; at a point that a program serves without a comparison,
    ``func`` does not run.

    Args:
        func: takes the inputs, returns a real tensor with a single element.
        inputs: a floating-point or complex tensor, or a structure of them (tuples, lists, dicts, dataclasses). An
            outermost tuple is splatted into ``func``.
        has_aux: ``func`` returns ``(output, aux)``; ``H.aux`` is the second.
        argnums: the arguments to differentiate by, as an index or a tuple of them; all when left out.
        create_graph: make value, gradient and products differentiable by the inputs that require gradients, by the
            vectors and by what ``func`` captures.
        batching: ``"loop"`` multiplies many vectors one by one, ``"vmap"`` in batched backwards. ``"auto"`` tries both
            in the first call with sixteen vectors or more, and takes the faster one that is right.
        engine: ``"tape"`` keeps the autograd graph. ``"compiled"`` compiles gradient and product once, for this point
            and all points of the same layout that ``at`` moves to, and compares them with the tape. ``"auto"`` starts
            with the tape and compiles when the expected products would take more than ten times the estimated compile
            time; it keeps a program that is right and measured faster. ``H.explain()`` has the decision and its
            figures; its ``choice``, a :class:`hesse.Choice`, can be given here.
        verify: where a compiled program is compared with the tape: value, gradient and the product with a random
            vector. True compares at its points 1, 2, 4, 8 and so on, ``"always"`` at every point, False at the first.
        memory: bytes, or a size such as ``"2GiB"``, that a call with many vectors may add at its peak; half of the
            available memory when left out. A compiled program also recomputes intermediates to stay within it where
            possible.
        expect: the number of products that will be asked for, at this point and those that ``at`` moves to. Solvers and
            estimators announce theirs themselves. With ``engine="compiled"``, 1 makes the first product one program.
        batch_dim: 0 for many independent problems: ``func`` returns their values, of shape (B,), and B is the first
            dimension of each input. The operator is the Hessian of the sum, block-diagonal, and ``dense_blocks()``
            returns its blocks. A random product checks that no value depends on another problem's inputs.
        group: the process group of ranks whose functions are summed: f is the sum of what ``func`` returns on each of
            them, at the same inputs. Making the operator and asking it is then a collective call.

    Attributes:
        value: ``func(inputs)``, in its own shape.
        gradient: structured like the inputs.
        aux: the auxiliary output, or None.
        shape: (n, n), where n counts the elements of all leaves, complex ones twice.
        dtype: real dtype of flat vectors, at least float32.
        device: device of flat vectors, that of the first leaf.
        structure: the inputs' structure with, for each leaf, its shape and dtype.

    Raises:
        TypeError: something in ``inputs`` or the output is no tensor.
        RuntimeError: ``func`` returns no single element; or with ``batch_dim``, not one for each problem, or problems
            that depend on each other.
        CaptureError: ``engine="compiled"`` cannot take ``func``: it decides by values, say. The sentence names the
            operator or the line.
        MemoryBudgetError: at a product, when not even one vector at a time stays within ``memory``.
        StalePointError: at a product, when an input or a tensor that ``func`` captures has changed in place.

    Source:
        Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994).

    Example:
        >>> import torch, hesse
        >>> H = hesse.Hessian(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0]))
        >>> H.value, H @ torch.tensor([1.0, 10.0])
        (tensor(9.), tensor([  6., 120.]))
        >>> H.to_dense()
        tensor([[ 6.,  0.],
                [ 0., 12.]])
    """

    # What errors call it.
    _entry = "Hessian"

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
        batch_dim: Literal[0] | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if batch_dim is not None:
            engine = _engine_of_problems(batch_dim, engine)
        options = Options(engine, batching, verify, expect, memory, create_graph)
        self._func, self._has_aux, self._argnums, self._batch_dim = func, has_aux, argnums, batch_dim
        self.ranks = Ranks.of(group)
        if self.ranks is not None and create_graph:
            raise ValueError("create_graph=True is for one process: autograd does not follow a sum over ranks.")
        untraced(self._move)(inputs, Engines(options, func), None)

    def _move(self, inputs: Any, engines: Engines, earlier: Any) -> None:
        """Take the point: evaluate the function, once."""
        func = self._func
        at = check_point(self._entry, func, inputs, self._argnums)
        self._at, self._inputs = at, inputs
        gradient_at = gradient_map(
            self._entry,
            at,
            self._has_aux,
            engines.options.create_graph,
            self._batch_dim,
            functools.partial(followed_function, self._entry, func, inputs, at, self._has_aux),
        )

        def term(linearize: Linearize) -> HessianTerm:
            return HessianTerm(linearize("gradient", gradient_at, at.leaves, inputs), at.leaves)

        variables = Space(at.leaves, at.spec, self._entry)
        make = functools.partial(FunctionPoint, variables, engines, term, at)
        point = at_point(self._entry, self.ranks, make)
        super().__init__(point, point.whole, point.variables, point.variables, symmetric=True)

    @property
    def value(self) -> Tensor:
        """``func(inputs)``, in its own shape."""
        if isinstance(self._point, SharedPoint):
            return self._point.value
        value: Tensor = self._evaluated().aux[0]
        return value.clone()

    @property
    def gradient(self) -> Any:
        """The gradient, structured like the inputs."""
        if isinstance(self._point, SharedPoint):
            return self.domain.unflatten(self._point.gradient)
        return self.domain.spec.rebuild([entry.clone() for entry in self._evaluated().outputs])

    @property
    def aux(self) -> Any:
        """The auxiliary output, or None; of this rank's function."""
        return self._evaluated().aux[1]

    def _evaluated(self) -> Linearization:
        point = self._point.local if isinstance(self._point, SharedPoint) else self._point
        assert isinstance(point, FunctionPoint)
        return point.evaluated()

    @property
    def structure(self) -> Any:
        """The inputs' structure with ``(shape, dtype)`` for each leaf."""
        return self.domain.spec.rebuild([(tuple(leaf.shape), leaf.dtype) for leaf in self.domain.leaves])

    def at(self, inputs: Any) -> Hessian:
        """The Hessian of the same function at other inputs, or at the same ones as they are now."""
        return self._moved(inputs)

    def dense_blocks(self) -> Tensor:
        """The Hessians of all problems, (B, n, n), with ``batch_dim=0``: n products of the sum, for all at once.

        n counts the elements of one problem's inputs, leaf after leaf.

        Raises:
            ValueError: the operator was made without ``batch_dim``.
            MemoryBudgetError: the blocks and a product do not stay within ``memory``.
        """
        if self._batch_dim is None:
            raise ValueError("dense_blocks() needs a Hessian of independent problems. Make it with batch_dim=0.")
        self._point.begin(self.domain.size)
        return independent.dense_blocks(self._point, self.domain, self.dtype, self._point.left_with_results())

    def _find_pattern(self) -> Pattern | None:
        if self.ranks is not None:
            # Each rank has a function of its own, and the patterns would differ.
            return super()._find_pattern()
        # It loads SciPy's sparse matrices, which other questions do not need.
        from hesse._sparse.detection import jacobian_pattern_of_map

        def gradient_at(x: tuple[Tensor, ...]) -> tuple[Leaves, Any]:
            if self._batch_dim is None:
                output, _ = evaluate_scalar(self._entry, self._at, x, False, self._has_aux)
            else:
                output = independent.evaluate_each(self._entry, self._at, x, self._has_aux)[0].sum()
            return zeros_where_none(gradient_to_multiply(output, x, False), x), None

        memory = self._point.engines.options.memory
        found = jacobian_pattern_of_map(self._entry, gradient_at, self._at, self._func, self._inputs, memory)
        # The formulas of both sides of the diagonal are not always known equally well.
        symmetric: Pattern = (found + found.T).tocsr()
        return symmetric

    def block(self, rows: Key | tuple[Key, ...], columns: Key | tuple[Key, ...] | None = None) -> Block:
        """The block of second derivatives by two parts of the inputs.

        Args:
            rows: the part whose structure the product has: a key of a dict, an index of a tuple or list, a
                field of a dataclass, or a tuple of them that leads further in.
            columns: the part whose structure the vector has; the same as ``rows`` when left out.

        Raises:
            KeyError: there is no such part.
        """
        targets, range_ = _part(self.domain, rows)
        sources, domain = _part(self.domain, rows if columns is None else columns)
        return Block(self._point, Part(sources, targets), domain, range_)


def gradient_map(
    name: str,
    point: At,
    has_aux: bool,
    create_graph: bool,
    batch_dim: int | None = None,
    followed: Callable[[], Followed] | None = None,
) -> Map:
    """The gradient of a function as a map of its inputs; beside it the value and the auxiliary output.

    It raises where the value does not depend on the inputs, but for no good reason, if it knows what is ``followed``.
    """

    def gradient_at(x: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Any]:
        if batch_dim is None:
            output, aux = evaluate_scalar(name, point, x, False, has_aux)
            found = gradient_to_multiply(output, x, create_graph)
        else:
            output, aux = independent.evaluate_each(name, point, x, has_aux)
            found = gradient_to_multiply(output.sum(), x, create_graph)
        if followed is not None and any([entry is None for entry in found]):
            require_dependence(name, "a function whose value", [output], x, followed())
        gradient = zeros_where_none(found, x)
        if batch_dim is not None:
            independent.require_independent(name, output, gradient, x)
        return gradient, without_history((output, aux), create_graph)

    return gradient_at


def _engine_of_problems(batch_dim: int, engine: Name | Choice) -> Name | Choice:
    """The engine of independent problems: the tape, which can see that they are independent."""
    if batch_dim != 0:
        raise ValueError(f"batch_dim should be 0 or None but is {batch_dim!r}. Move the problems to the front.")
    if engine == "auto":
        return "tape"
    if not (engine == "tape" or (isinstance(engine, Choice) and engine.engine == "tape")):
        raise ValueError('batch_dim=0 needs engine="tape".')
    return engine


def _part(space: Space, keys: Key | tuple[Key, ...]) -> tuple[tuple[int, ...], Space]:
    """Positions and space of the leaves below a path of keys."""
    path = keys if isinstance(keys, tuple) else (keys,)
    chosen = tuple([i for i, leaf_path in enumerate(space.spec.paths) if leaf_path[: len(path)] == path])
    if not chosen:
        known = sorted({str(leaf_path[0]) for leaf_path in space.spec.paths if leaf_path})
        raise KeyError(f"The Hessian has no block {keys!r}: the inputs have {', '.join(known) or 'no parts'}.")
    part = trees.at_path(space.spec.rebuild(space.leaves), path)
    leaves, spec = trees.flatten(part)
    return chosen, Space(leaves, spec, "Hessian block")
