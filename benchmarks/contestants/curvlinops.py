"""curvlinops: its HessianLinearOperator, without the check for determinism and the progress bar."""

from typing import Any

from torch import Tensor

from benchmarks.contestants.base import Contestant, Prepared, supervised
from benchmarks.workloads.base import Supervised, Workload


def lay_out(workload: Workload) -> tuple[Tensor, Tensor]:
    """The first vector, and all as the columns of a matrix."""
    return workload.rows[0], workload.rows.T.contiguous()


def operator(view: Supervised) -> Any:
    from curvlinops import HessianLinearOperator

    return HessianLinearOperator(
        view.model,
        view.loss,
        list(view.model.parameters()),
        [view.batch],
        progressbar=False,
        check_deterministic=False,
        num_data=view.batch[0].shape[0],
    )


def prepare(workload: Workload, vectors: tuple[Tensor, Tensor]) -> Prepared:
    view = supervised(workload)
    vector, columns = vectors
    kept = operator(view)
    return Prepared(
        lone=lambda: operator(view) @ vector,
        one=lambda: kept @ vector,
        many=lambda: kept @ columns,
        flat=lambda answer: answer,
        flat_many=lambda answer: answer.T,
    )


CONTESTANT = Contestant("curvlinops", "curvlinops", lay_out, prepare)
