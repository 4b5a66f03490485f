"""Operators over ranks against dense matrices of one process."""

import pytest

from tests.distributed.launch import HERE, held, torchrun
from tests.distributed.shared_products import CHECKS


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.exhaustive)])
def test_products_of_ranks_are_those_of_one_process(ranks: int) -> None:
    expected = [f"rank {rank}: {check.__name__} held" for rank in range(ranks) for check in CHECKS]
    assert held(torchrun(HERE / "shared_products.py", ranks)) == sorted(expected)
