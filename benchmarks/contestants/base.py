"""What a contestant is: a name, and a function that gets it ready for one workload."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.workloads.base import Supervised, Workload


class CannotRun(Exception):
    """A contestant's reason, in one sentence, for not running a workload."""


@dataclass(frozen=True)
class Prepared:
    """A contestant ready for one workload: what is timed, and how its answers are read afterwards.

    `lone` goes from the function and the point to one product, `one` multiplies by one vector at a
    point already prepared, `many` multiplies by all vectors there. `flat` turns an answer into a tensor
    of shape (n,) and `flat_many` the answer of `many` into (k, n), outside the timed region.
    """

    lone: Callable[[], Any]
    one: Callable[[], Any]
    many: Callable[[], Any]
    flat: Callable[[Any], Tensor]
    flat_many: Callable[[Any], Tensor]


def torch_gradient(workload: Workload, vectors: Any) -> Callable[[], Any]:
    leaves = tuple(leaf.detach().requires_grad_() for leaf in workload.leaves)
    return lambda: torch.autograd.grad(workload.on_leaves(*leaves), leaves)


@dataclass(frozen=True)
class Contestant:
    """One entry of the benchmarks.

    Before anything is measured, `module` is imported and `lay_out(workload)` brings the vectors into
    the form the contestant wants. `prepare(workload, vectors)` does what is done once a point, and
    `gradient(workload, vectors)` gives the call with whose memory that of the products is compared.
    """

    name: str
    module: str
    lay_out: Callable[[Workload], Any]
    prepare: Callable[[Workload, Any], Prepared]
    gradient: Callable[[Workload, Any], Callable[[], Any]] = torch_gradient


def supervised(workload: Workload) -> Supervised:
    """The view of peers that take a network, a loss and data."""
    if workload.supervised is None:
        raise CannotRun("It takes a network, a loss and data, and this workload is a plain function.")
    return workload.supervised


def split_rows(workload: Workload) -> list[tuple[Tensor, ...]]:
    """The vectors one by one, each as leaves; views, since each row lies in one piece."""
    return [workload.split(row) for row in workload.rows]


def flat_leaves(leaves: Any) -> Tensor:
    """Leaves of one product as a vector of shape (n,)."""
    return torch.cat([leaf.reshape(-1) for leaf in leaves])


def flat_leading(leaves: Any) -> Tensor:
    """Leaves of shape (k, ...) as rows of shape (k, n)."""
    return torch.cat([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], dim=1)


def flat_list(answers: Any) -> Tensor:
    """A list of products, each a sequence of leaves, as rows of shape (k, n)."""
    return torch.stack([flat_leaves(answer) for answer in answers])
