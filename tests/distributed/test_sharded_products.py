"""Operators of models of FSDP2 against products of one process."""

import pytest

from tests.distributed.launch import HERE, held, torchrun
from tests.distributed.sharded_products import CHECKS


@pytest.mark.private
@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.exhaustive)])
def test_products_of_sharded_models_are_those_of_one_process(ranks: int) -> None:
    expected = [f"rank {rank}: {check.__name__} held" for rank in range(ranks) for check in CHECKS]
    assert held(torchrun(HERE / "sharded_products.py", ranks)) == sorted(expected)
