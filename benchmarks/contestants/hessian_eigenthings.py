"""hessian-eigenthings: its HessianOperator. It keeps nothing, so a replay is another lone call."""

import torch
from torch import Tensor

from benchmarks.contestants.base import Contestant, Prepared, supervised
from benchmarks.workloads.base import Workload


def lay_out(workload: Workload) -> list[Tensor]:
    return list(workload.rows)


def prepare(workload: Workload, vectors: list[Tensor]) -> Prepared:
    from hessian_eigenthings import HessianOperator, supervised_loss

    view = supervised(workload)

    def operator() -> HessianOperator:
        return HessianOperator(view.model, [view.batch], supervised_loss(view.loss))

    kept = operator()
    return Prepared(
        lone=lambda: operator() @ vectors[0],
        one=lambda: kept @ vectors[0],
        many=lambda: [kept @ vector for vector in vectors],
        flat=lambda answer: answer,
        flat_many=torch.stack,
    )


CONTESTANT = Contestant("hessian-eigenthings", "hessian_eigenthings", lay_out, prepare)
