"""Operators over ranks against dense matrices of one process."""

import pytest

from tests.distributed.launch import require_checks


# On two ranks: test_two_ranks.py.
@pytest.mark.exhaustive
def test_products_of_four_ranks_are_those_of_one_process() -> None:
    require_checks(4, "shared_products")
