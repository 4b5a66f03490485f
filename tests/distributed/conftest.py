"""A process group of one rank, which shards, wraps and redistributes as any other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A group of this process alone, by gloo."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def mesh(group: None) -> DeviceMesh:
    """A mesh of this process alone."""
    return init_device_mesh("cpu", (1,))


@pytest.fixture
def group_of_two() -> Iterator[None]:
    """Rank 0 of a group of two, whose other rank is not there: collectives return what they were given."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.fixture
def x() -> torch.Tensor:
    """Twelve rows of data."""
    return torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
