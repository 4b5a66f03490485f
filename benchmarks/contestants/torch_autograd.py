"""torch.autograd.functional.vhp: the baseline. It keeps nothing, so a replay is another lone call."""

from torch import Tensor
from torch.autograd.functional import vhp

from benchmarks.contestants.base import Contestant, Prepared, flat_leaves, flat_list, split_rows
from benchmarks.workloads.base import Workload


def prepare(workload: Workload, vectors: list[tuple[Tensor, ...]]) -> Prepared:
    def product(vector: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return vhp(workload.on_leaves, workload.leaves, vector)[1]

    return Prepared(
        lone=lambda: product(vectors[0]),
        one=lambda: product(vectors[0]),
        many=lambda: [product(vector) for vector in vectors],
        flat=flat_leaves,
        flat_many=flat_list,
    )


CONTESTANT = Contestant("torch.autograd.functional", "torch", split_rows, prepare)
