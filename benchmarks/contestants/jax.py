"""JAX, two ways: the whole product compiled, and the gradient linearized once with compiled replays.

Inputs and data are on the device beforehand and are arguments of the compiled programs rather than
constants in them; every call waits for its result.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.contestants.base import CannotRun, Contestant, Prepared, flat_leading, flat_leaves
from benchmarks.workloads.base import Workload

# JAX reads this when it is first imported; without it a machine with a GPU would compare two devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")


def to_jax(tree: Any) -> Any:
    import jax
    import jax.numpy as jnp

    def convert(tensor: Tensor) -> Any:
        # JAX's integers are 32 bits wide unless told otherwise.
        return jnp.asarray((tensor.int() if tensor.dtype == torch.int64 else tensor).numpy())

    return jax.tree.map(convert, tree)


def to_torch(array: Any) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.array(array))


class Problem:
    """The workload's function, gradient, point and vectors in JAX."""

    def __init__(self, workload: Workload) -> None:
        import jax

        if workload.jax_twin is None:
            raise CannotRun("This workload has no twin written in JAX.")
        self.workload = workload
        self.grad = jax.grad(workload.jax_twin())
        self.inputs = to_jax(workload.inputs)
        self.data = to_jax(workload.jax_data)
        self.vector = to_jax(workload.vector())
        self.batch = to_jax(workload.rebuild(workload.split(workload.rows)))

    def prepared(self, lone: Callable[[Any], Any], one: Callable[[Any], Any], many: Callable[[Any], Any]) -> Prepared:
        import jax

        def leaves(answer: Any) -> list[Tensor]:
            return [to_torch(leaf) for leaf in self.workload.leaves_of(answer)]

        return Prepared(
            lone=lambda: jax.block_until_ready(lone(self.vector)),
            one=lambda: jax.block_until_ready(one(self.vector)),
            many=lambda: jax.block_until_ready(many(self.batch)),
            flat=lambda answer: flat_leaves(leaves(answer)),
            flat_many=lambda answer: flat_leading(leaves(answer)),
        )


def prepare_jitted(workload: Workload, problem: Problem) -> Prepared:
    import jax

    def product(vector: Any, inputs: Any, data: Any) -> Any:
        return jax.jvp(lambda point: problem.grad(point, *data), (inputs,), (vector,))[1]

    compiled = jax.jit(product)
    batched = jax.jit(jax.vmap(product, in_axes=(0, None, None)))

    def one(vector: Any) -> Any:
        return compiled(vector, problem.inputs, problem.data)

    return problem.prepared(one, one, lambda batch: batched(batch, problem.inputs, problem.data))


def prepare_linearized(workload: Workload, problem: Problem) -> Prepared:
    import jax

    # The linear function is a pytree of residuals, so one compiled program makes it at any point and
    # another replays it.
    @jax.jit
    def linearize(inputs: Any, data: Any) -> Any:
        return jax.linearize(lambda point: problem.grad(point, *data), inputs)[1]

    replay = jax.jit(lambda linear, vector: linear(vector))
    replay_batch = jax.jit(lambda linear, batch: jax.vmap(linear)(batch))
    kept = linearize(problem.inputs, problem.data)

    return problem.prepared(
        lambda vector: replay(linearize(problem.inputs, problem.data), vector),
        lambda vector: replay(kept, vector),
        lambda batch: replay_batch(kept, batch),
    )


def gradient(workload: Workload, problem: Problem) -> Callable[[], Any]:
    import jax

    compiled = jax.jit(problem.grad)
    return lambda: jax.block_until_ready(compiled(problem.inputs, *problem.data))


JITTED = Contestant("JAX jitted", "jax", Problem, prepare_jitted, gradient)
LINEARIZED = Contestant("JAX linearized", "jax", Problem, prepare_linearized, gradient)
