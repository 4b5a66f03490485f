"""curvlinops: its HessianLinearOperator, without the check for determinism and the progress bar."""

from typing import Any

from torch import Tensor

from benchmarks.contestants.base import Contestant, Prepared, supervised
from benchmarks.workloads.base import Workload


def lay_out(workload: Workload) -> tuple[Tensor, Tensor]:
    """The first vector, and all as the columns of a matrix."""
    return workload.rows[0], workload.rows.T.contiguous()


def prepare(workload: Workload, vectors: tuple[Tensor, Tensor]) -> Prepared:
    from curvlinops import HessianLinearOperator

    view = supervised(workload)
    vector, columns = vectors

    def operator() -> Any:
        return HessianLinearOperator(
            view.model,
            view.loss,
            list(view.model.parameters()),
            [view.batch],
            progressbar=False,
            check_deterministic=False,
            num_data=view.batch[0].shape[0],
        )

    kept = operator()
    return Prepared(
        lone=lambda: operator() @ vector,
        one=lambda: kept @ vector,
        many=lambda: kept @ columns,
        flat=lambda answer: answer,
        flat_many=lambda answer: answer.T,
    )


CONTESTANT = Contestant("curvlinops", "curvlinops", lay_out, prepare)
