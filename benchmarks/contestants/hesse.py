"""hesse. An engine of its own is one more line at the end of this file."""

import time
from typing import Any, Literal

from torch import Tensor

from benchmarks.contestants.base import Contestant, Prepared, flat_leaves
from benchmarks.workloads.base import Workload

# Seconds of products that may go before it is known whether many vectors are faster at once.
SETTLING = 60
# As of a question: enough to pay for the program of many vectors at their first call.
VECTORS = 100_000


def lay_out(workload: Workload) -> tuple[Any, Tensor]:
    """The first vector structured like the inputs, and all as the columns of a matrix."""
    return workload.vector(), workload.rows.T


def contestant(name: str, engine: Literal["tape", "compiled"]) -> Contestant:
    """hesse by an engine; by the tape a lone call is `hesse.vhp`.

    By programs it is the operator moved to a point, from one that was asked for one product.
    """

    def prepare(workload: Workload, vectors: tuple[Any, Tensor]) -> Prepared:
        import hesse

        vector, columns = vectors
        kept = hesse.Hessian(workload.func, workload.inputs, engine=engine, expect=VECTORS)
        began = time.perf_counter()
        while kept.explain().batching == "undecided" and time.perf_counter() - began < SETTLING:
            kept @ columns

        moved = kept

        def lone() -> Any:
            nonlocal moved
            if engine == "compiled":
                moved = moved.at(workload.inputs)
                return moved @ vector
            return hesse.vhp(workload.func, workload.inputs, vector)[1]

        return Prepared(
            lone=lone,
            one=lambda: kept @ vector,
            many=lambda: kept @ columns,
            flat=lambda answer: flat_leaves(workload.leaves_of(answer)),
            flat_many=lambda answer: answer.T,
        )

    return Contestant(name, "hesse", lay_out, prepare)


CONTESTANTS = (contestant("hesse", "tape"), contestant("hesse compiled", "compiled"))
