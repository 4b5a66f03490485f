"""Operators of models of FSDP2 against products of one process."""

import pytest

from tests.distributed.launch import require_checks


# On two ranks: test_two_ranks.py.
@pytest.mark.exhaustive
def test_products_of_models_that_four_ranks_shard_are_those_of_one_process() -> None:
    require_checks(4, "sharded_products", "sharded_batches", "sharded_commands", "sharded_language_models")
