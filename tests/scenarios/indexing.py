"""Views, indexing, in-place changes, scans and selections."""

from __future__ import annotations

import torch
from torch import Tensor

from .scenario import Case, draw, positive, scenario


@scenario
def gather_and_take() -> Case:
    places = torch.tensor([[0, 2], [1, 1]])
    return Case(lambda x: (x.gather(1, places) ** 3).sum() + x.take(torch.tensor([0, 5, 5])).prod() ** 2, draw(2, 3))


@scenario
def scatter_add_of_products() -> Case:
    places = torch.tensor([0, 2, 0, 1, 2])

    def func(x: Tensor) -> Tensor:
        return (torch.zeros(3, dtype=x.dtype).scatter_add(0, places, x**2) ** 2).sum()

    return Case(func, draw(5))


@scenario
def scatter_overwriting_entries() -> Case:
    places = torch.tensor([[1, 0, 2]])
    return Case(lambda x, y: (x.scatter(0, places, y) ** 3).prod(0).sum(), (draw(3, 3), draw(1, 3)))


@scenario
def scatter_reduce_by_products() -> Case:
    places = torch.tensor([0, 1, 0, 1, 0])

    def func(x: Tensor) -> Tensor:
        return torch.sin(torch.ones(2, dtype=x.dtype).scatter_reduce(0, places, x, reduce="prod")).sum()

    return Case(func, positive(5))


@scenario
def scatter_reduce_by_means_and_maxima() -> Case:
    places = torch.tensor([0, 1, 0, 1, 0])

    def func(x: Tensor) -> Tensor:
        zeros = torch.zeros(2, dtype=x.dtype)
        means = zeros.scatter_reduce(0, places, x**2, reduce="mean", include_self=False)
        maxima = zeros.scatter_reduce(0, places, x, reduce="amax", include_self=False)
        return (means**2 * maxima).sum()

    return Case(func, draw(5))


@scenario
def index_put_accumulating() -> Case:
    places = (torch.tensor([0, 0, 1]), torch.tensor([1, 1, 0]))
    return Case(lambda x, y: (x.index_put(places, y**2, accumulate=True) ** 3).sum(), (draw(2, 2), draw(3)))


@scenario
def index_add_and_index_copy() -> Case:
    places = torch.tensor([2, 0])

    def func(x: Tensor, y: Tensor) -> Tensor:
        return (x.index_add(0, places, y * x[:2]).index_copy(0, places[:1], y[:1] ** 2) ** 3).sum()

    return Case(func, (draw(3, 2), draw(2, 2)))


@scenario
def masks_and_advanced_indexing() -> Case:
    mask = torch.tensor([[True, False, True], [False, True, True]])

    def func(x: Tensor) -> Tensor:
        return (x[mask] ** 3).sum() + (x[[0, 1, 1], [2, 0, 0]]).prod() + (x[:, ::2] * x[:, 1:]).sum() ** 2

    return Case(func, draw(2, 3))


@scenario
def cumulative_sum_and_product() -> Case:
    return Case(lambda x: (torch.cumprod(x, 1) * torch.cumsum(x, 0) ** 2).sum(), positive(2, 3))


@scenario
def cumulative_product_with_a_zero() -> Case:
    x = positive(4)
    x[2] = 0
    return Case(lambda x: (torch.cumprod(x, 0) ** 2).sum() + torch.cumprod(x, 0).sum(), x)


@scenario
def log_cumulative_sum_exp() -> Case:
    return Case(lambda x: torch.sin(torch.logcumsumexp(x, 0)).sum(), draw(5))


@scenario
def changes_in_place() -> Case:
    def func(x: Tensor) -> Tensor:
        y = x.clone()
        y.mul_(x).add_(1)
        y[0] = y[1].clone() * x[2]
        y[2:].exp_()
        z = torch.zeros(4, dtype=x.dtype)
        z.copy_(y).sigmoid_()
        return (z * y).sum()

    return Case(func, draw(4))


@scenario
def changes_of_views_in_place() -> Case:
    def func(x: Tensor) -> Tensor:
        y = x * 1
        y.T[0].mul_(y[:, 1].clone())
        y.view(-1)[1:4].add_(x.reshape(-1)[:3] ** 2)
        return (y**2).sum()

    return Case(func, draw(3, 2))


@scenario
def preallocated_output_filled_in_a_loop() -> Case:
    def func(x: Tensor) -> Tensor:
        states = torch.empty(4, dtype=x.dtype)
        states[0] = x[0]
        for i in range(1, 4):
            states[i] = torch.sin(states[i - 1].clone()) * x[i]
        return (states**2).sum()

    return Case(func, draw(4))


@scenario
def views_expansions_and_strides() -> Case:
    def func(x: Tensor) -> Tensor:
        windows = x.as_strided((3, 3), (1, 1))
        spread = x[:3, None].expand(3, 3)
        return (windows * spread.mT).pow(2).sum() + x.view(1, 5).repeat(2, 1).prod(0).sum()

    return Case(func, draw(5))


@scenario
def permutations_flips_and_rolls() -> Case:
    def func(x: Tensor) -> Tensor:
        y = x.permute(2, 0, 1).flip(0).roll(1, dims=2).contiguous()
        return (y.reshape(-1)[:6] * torch.stack([y, y.rot90()]).movedim(0, -1).reshape(-1)[:6]).sum() ** 2

    return Case(func, draw(2, 2, 2))


@scenario
def splits_stacks_and_concatenations() -> Case:
    def func(x: Tensor, y: Tensor) -> Tensor:
        left, right = torch.vsplit(x, 2)
        stacked = torch.vstack([left * y, torch.cat([right, y.expand_as(right)]).sum(0)])
        return torch.hypot(stacked, torch.ones_like(stacked)).prod(0).sum()

    return Case(func, (draw(4, 2), draw(2)))


@scenario
def sliding_windows() -> Case:
    return Case(lambda x: (x.unfold(0, 3, 2) ** 2).prod(-1).sum(), draw(7))


@scenario
def selection_by_comparison() -> Case:
    def func(x: Tensor) -> Tensor:
        # Every draw is far from the kink at zero for the step of a finite difference.
        return (torch.where(x > 0, x**3, torch.exp(x)) * x.abs() + torch.relu(x) ** 2).sum()

    return Case(func, torch.tensor([-1.3, 0.4, 0.9, -0.2], dtype=torch.float64))


@scenario
def clamp_and_leaky_relu() -> Case:
    def func(x: Tensor) -> Tensor:
        return (x.clamp(-1, 1) ** 3 + torch.nn.functional.leaky_relu(x, 0.1) ** 2 * x).sum()

    return Case(func, torch.tensor([-1.3, 0.4, 1.9, -0.2], dtype=torch.float64))


@scenario
def minima_maxima_and_median() -> Case:
    def func(x: Tensor) -> Tensor:
        return x.max() ** 3 * x.min() + x.median() ** 2 + x.amax(0).prod() + torch.maximum(x[0], x[1]).prod()

    return Case(func, torch.tensor([[0.3, -1.2, 2.0], [1.1, 0.7, -0.4]], dtype=torch.float64))


@scenario
def sort_and_top_k() -> Case:
    weights = torch.arange(1, 6, dtype=torch.float64)

    def func(x: Tensor) -> Tensor:
        return weights @ x.sort().values ** 3 + x.topk(2).values.prod() ** 2

    return Case(func, torch.tensor([0.3, -1.2, 2.0, 1.1, 0.7], dtype=torch.float64))


@scenario
def statistics() -> Case:
    def func(x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1)
        return (variance * mean**2).sum() + torch.std(x) + torch.cov(x.T)[0, 1] ** 2

    return Case(func, draw(3, 2))


@scenario
def vandermonde_renorm_and_cumulative_trapezoid() -> Case:
    def func(x: Tensor) -> Tensor:
        powers = torch.linalg.vander(x, N=4)
        return torch.renorm(powers, 2, 0, 1.0).pow(3).sum() + torch.cumulative_trapezoid(x**2).prod()

    return Case(func, positive(3))
