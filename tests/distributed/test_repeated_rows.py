"""Loaders that give rows twice, so that all ranks have equally many, are refused; others are taken."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    SequentialSampler,
    Subset,
    TensorDataset,
)

import hesse


def rows(number: int) -> TensorDataset:
    return TensorDataset(
        torch.arange(4.0 * number, dtype=torch.float64).reshape(number, 4).sin(), torch.arange(number) % 3
    )


def hessian(data: Any, operator: Any = hesse.LossHessian) -> Any:
    torch.manual_seed(0)
    return operator(nn.Linear(4, 3).double(), nn.CrossEntropyLoss(), data)


@pytest.mark.parametrize("operator", [hesse.LossHessian, hesse.GaussNewton, hesse.Fisher, hesse.EmpiricalFisher])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_distributed_sampler_that_repeats_rows_is_refused(operator: Any, shuffle: bool) -> None:
    sampler = DistributedSampler(rows(13), num_replicas=4, rank=1, shuffle=shuffle)
    sentence = (
        rf"^The DistributedSampler in the data given to {operator.__name__} repeats 3 of 13 rows, so that 4 ranks have"
        r" equally many, and these rows would count twice. Give it drop_last=True, or .*Subset"
    )
    with pytest.raises(ValueError, match=sentence):
        hessian(DataLoader(rows(13), batch_size=2, sampler=sampler), operator)


@pytest.mark.parametrize(
    ("number", "ranks", "drop_last"), [(12, 4, False), (13, 4, True), (13, 1, False), (2, 2, False), (1, 1, False)]
)
def test_a_distributed_sampler_that_repeats_nothing_is_taken(number: int, ranks: int, drop_last: bool) -> None:
    sampler = DistributedSampler(rows(number), num_replicas=ranks, rank=0, drop_last=drop_last, shuffle=False)
    loader = DataLoader(rows(number), batch_size=2, sampler=sampler)
    mine = Subset(rows(number), list(sampler))
    v = torch.linspace(-1, 1, 15, dtype=torch.float64)
    together = next(iter(DataLoader(mine, batch_size=number)))
    torch.testing.assert_close(hessian(loader) @ v, hessian((together[0], together[1])) @ v)


class Loaders:
    """A user's own collection of batches around a loader."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


def test_the_sampler_is_found_inside_of_batch_samplers_and_other_loaders() -> None:
    sampler = DistributedSampler(rows(13), num_replicas=2, rank=0)
    loader = DataLoader(rows(13), batch_sampler=BatchSampler(sampler, 2, drop_last=False))
    for data in (loader, Loaders(loader)):
        with pytest.raises(ValueError, match="repeats 1 of 13 rows"):
            hessian(data)


def test_a_subset_for_each_rank_is_the_remedy() -> None:
    v = torch.linspace(-1, 1, 15, dtype=torch.float64)
    parts = [Subset(rows(13), range(rank, 13, 2)) for rank in range(2)]
    whole = hessian(DataLoader(rows(13), batch_size=13)) @ v
    # Each weighted by its share of the rows.
    summed = sum(hessian(DataLoader(part, batch_size=2)) @ v * (len(part) / 13) for part in parts)
    torch.testing.assert_close(summed, whole)


# Named and made like those of accelerate 1.15, as far as a loader shows them: it is no dependency.
class BatchSamplerShard(BatchSampler):
    def __init__(self, inner: BatchSampler, ranks: int, even: bool = True, split: bool = False) -> None:
        self.batch_sampler, self.num_processes, self.process_index = inner, ranks, 0
        self.even_batches, self.split_batches = even, split
        self.batch_size, self.drop_last = inner.batch_size, inner.drop_last

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.batch_sampler)[:: self.num_processes])

    def __len__(self) -> int:
        return len(list(iter(self)))


class Stream(IterableDataset[Any]):
    def __init__(self, number: int) -> None:
        self.number = number

    def __iter__(self) -> Iterator[Any]:
        return iter(rows(self.number))


class IterableDatasetShard(IterableDataset[Any]):
    def __init__(self, dataset: Any, ranks: int, drop_last: bool) -> None:
        self.dataset, self.num_processes, self.drop_last = dataset, ranks, drop_last
        self.batch_size, self.split_batches = 2, False

    def __iter__(self) -> Iterator[Any]:
        return iter(self.dataset)


class DataLoaderDispatcher(DataLoader[Any]):
    def __init__(self, dataset: Any, ranks: int, drop_last: bool) -> None:
        super().__init__(dataset, batch_size=2)
        self.state, self._drop_last = SimpleNamespace(num_processes=ranks), drop_last


def shard(number: int, ranks: int, drop_last: bool = False, **options: bool) -> DataLoader[Any]:
    inner = BatchSampler(SequentialSampler(rows(number)), 2, drop_last)
    return DataLoader(rows(number), batch_sampler=BatchSamplerShard(inner, ranks, **options))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (shard(13, 2), "BatchSamplerShard .* repeats rows, so that 2 ranks .*even_batches=False"),
        (shard(14, 2), "BatchSamplerShard .* repeats rows"),
        (shard(13, 2, split=True), "BatchSamplerShard .* repeats rows"),
        (DataLoader(IterableDatasetShard(Stream(12), 2, False)), "IterableDatasetShard .* may repeat rows"),
        (DataLoader(IterableDatasetShard(rows(13), 2, False)), "IterableDatasetShard .* repeats rows"),
        (DataLoaderDispatcher(Stream(12), 2, False), "DataLoaderDispatcher .* may repeat rows.*drop_last=True"),
        (DataLoaderDispatcher(rows(13), 2, False), "DataLoaderDispatcher .* repeats rows"),
    ],
)
def test_a_loader_prepared_by_accelerate_that_repeats_rows_is_refused(data: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        hessian(data)


@pytest.mark.parametrize(
    "data",
    [
        shard(12, 2),
        shard(13, 1),
        shard(14, 2, split=True),
        shard(13, 2, even=False),
        shard(13, 2, drop_last=True),
        DataLoader(IterableDatasetShard(Stream(12), 2, True)),
        DataLoader(IterableDatasetShard(rows(12), 2, False)),
        DataLoader(IterableDatasetShard(Stream(12), 1, False)),
        DataLoaderDispatcher(Stream(12), 2, True),
        DataLoaderDispatcher(rows(12), 2, False),
    ],
)
def test_a_loader_prepared_by_accelerate_that_repeats_nothing_is_taken(data: Any) -> None:
    product = hessian(data) @ torch.ones(15, dtype=torch.float64)
    assert isinstance(product, Tensor)
    assert bool(product.isfinite().all())
