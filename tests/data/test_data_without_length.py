"""Data that has no length may have no end: whoever waits is told."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

import hesse
from hesse._data import batches
from hesse._data.batches import Batches, Cast
from tests.data.models import CLASSES, X, loader, mlp


class Rows(IterableDataset):
    """Batches without a length."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return itertools.islice(itertools.cycle(zip(X.split(2), CLASSES.split(2), strict=True)), self.count)


def test_data_that_never_ends_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches.SILENT == 1000
    monkeypatch.setattr(batches, "SILENT", 100)
    endless = DataLoader(Rows(10**9), batch_size=None)
    # The warning, an error here, is what ends it.
    with pytest.raises(UserWarning, match=r"^LossHessian has read 100 batches of .* goes on") as told:
        hesse.LossHessian(mlp(), F.cross_entropy, endless, memory="1MiB") @ torch.ones(27, dtype=torch.float64)
    assert "give a finite one, such as list(itertools.islice(data, 100))." in str(told.value)


def test_it_is_said_once_for_each_power_of_ten_and_the_product_is_that_of_all_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "SILENT", 10)
    model, v = mlp(), torch.linspace(-1, 1, 27, dtype=torch.float64)
    with pytest.warns(UserWarning, match="has no length") as told:
        found = hesse.LossHessian(model, F.cross_entropy, DataLoader(Rows(101), batch_size=None)) @ v
    assert [str(each.message).split()[3] for each in told] == ["10", "100"]
    assert {each.filename for each in told} == {__file__}
    torch.testing.assert_close(found, hesse.LossHessian(model, F.cross_entropy, list(Rows(101))) @ v)


def test_data_with_a_length_and_later_passes_are_not_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SILENT", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in (list(Rows(20)), DataLoader(list(range(40)), batch_size=1), Rows(9)):
            for _ in range(2):
                list(Batches(data if not isinstance(data, DataLoader) else _Tensors(data), None, "test"))
    lengthless = Batches(Rows(20), None, "test")
    with pytest.warns(UserWarning, match="has no length"):
        list(lengthless)
    list(lengthless)


class _Tensors:
    """A loader of numbers as one of batches, with its length."""

    def __init__(self, data: DataLoader) -> None:
        self._data = data

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


def test_data_in_another_precision_has_the_length_that_it_had() -> None:
    data = loader(X, CLASSES)
    assert len(Cast(data, torch.float32)) == len(data) == 3
    assert len(Cast((X, CLASSES), torch.float32)) == 1
    assert Batches(Cast(Rows(3), torch.float32), None, "test").length() is None
