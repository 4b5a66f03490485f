"""hessian-eigenthings: its HessianOperator. It keeps nothing, so a replay is another lone call."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.contestants.base import Contestant, Prepared, supervised
from benchmarks.workloads.base import Supervised, Workload


def lay_out(workload: Workload) -> list[Tensor]:
    return list(workload.rows)


def operator(view: Supervised) -> Any:
    from hessian_eigenthings import HessianOperator, supervised_loss

    return HessianOperator(view.model, [view.batch], supervised_loss(view.loss))


def prepare(workload: Workload, vectors: list[Tensor]) -> Prepared:
    view = supervised(workload)
    kept = operator(view)
    return Prepared(
        lone=lambda: operator(view) @ vectors[0],
        one=lambda: kept @ vectors[0],
        many=lambda: [kept @ vector for vector in vectors],
        flat=lambda answer: answer,
        flat_many=torch.stack,
    )


CONTESTANT = Contestant("hessian-eigenthings", "hessian_eigenthings", lay_out, prepare)
