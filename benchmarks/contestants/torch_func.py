"""torch.func: jvp of grad, and vmap of it over several vectors, as its documentation composes them."""

from typing import Any

from torch.func import grad, jvp, vmap

from benchmarks.contestants.base import Contestant, Prepared, flat_leading, flat_leaves
from benchmarks.workloads.base import Workload


def lay_out(workload: Workload) -> tuple[Any, Any]:
    """The first vector, and all with the vectors along the leading axis."""
    return workload.vector(), workload.rebuild(workload.split(workload.rows))


def prepare(workload: Workload, vectors: tuple[Any, Any]) -> Prepared:
    vector, batch = vectors
    gradient = grad(workload.func)
    batched = vmap(lambda tangent: product(tangent))

    def product(tangent: Any) -> Any:
        return jvp(gradient, (workload.inputs,), (tangent,))[1]

    return Prepared(
        lone=lambda: product(vector),
        one=lambda: product(vector),
        many=lambda: batched(batch),
        flat=lambda answer: flat_leaves(workload.leaves_of(answer)),
        flat_many=lambda answer: flat_leading(workload.leaves_of(answer)),
    )


CONTESTANT = Contestant("torch.func", "torch", lay_out, prepare)
