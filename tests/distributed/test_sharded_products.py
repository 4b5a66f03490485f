"""Operators of models of FSDP2 against products of one process."""

from collections.abc import Callable

import pytest

from tests.distributed.launch import HERE, held, torchrun
from tests.distributed.sharded_products import CHECKS, LONG


@pytest.mark.private
@pytest.mark.parametrize(
    ("ranks", "checks"), [(2, CHECKS), pytest.param(4, [*CHECKS, *LONG], marks=pytest.mark.exhaustive)]
)
def test_products_of_sharded_models_are_those_of_one_process(ranks: int, checks: list[Callable[[], None]]) -> None:
    names = [check.__name__ for check in checks]
    expected = [f"rank {rank}: {name} held" for rank in range(ranks) for name in names]
    assert held(torchrun(HERE / "sharded_products.py", ranks, *names)) == sorted(expected)
