"""PyHessian: its hessian_vector_product on the gradient graph it keeps for one batch."""

import warnings
from typing import Any

from torch import Tensor

from benchmarks.contestants.base import (
    Contestant,
    Prepared,
    flat_leaves,
    flat_list,
    split_rows,
    supervised,
)
from benchmarks.workloads.base import Supervised, Workload


def keep(view: Supervised) -> Any:
    """Its object for one batch, which keeps the gradient's graph."""
    from pyhessian import hessian

    # It keeps its graph by backward(create_graph=True), which PyTorch warns of once a process.
    warnings.filterwarnings("ignore", message="Using backward.* with create_graph=True")
    # It reads the gradients that backward leaves on the parameters, so they must start empty.
    view.model.zero_grad()
    return hessian(view.model, view.loss, data=view.batch, cuda=False)


def prepare(workload: Workload, vectors: list[tuple[Tensor, ...]]) -> Prepared:
    from pyhessian import hessian_vector_product

    view = supervised(workload)

    def product(point: Any, vector: tuple[Tensor, ...]) -> Any:
        return hessian_vector_product(point.gradsH, point.params, vector)

    kept = keep(view)
    return Prepared(
        lone=lambda: product(keep(view), vectors[0]),
        one=lambda: product(kept, vectors[0]),
        many=lambda: [product(kept, vector) for vector in vectors],
        flat=flat_leaves,
        flat_many=flat_list,
    )


CONTESTANT = Contestant("PyHessian", "pyhessian", split_rows, prepare)
