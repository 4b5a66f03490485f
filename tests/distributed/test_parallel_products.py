"""Operators of tensor parallel models against products of one process."""

import pytest

from tests.distributed.launch import require_checks


# On two ranks: test_two_ranks.py.
@pytest.mark.exhaustive
def test_products_of_models_whose_layers_four_ranks_share_are_those_of_one_process() -> None:
    require_checks(4, "parallel_products", "mesh_products")


@pytest.mark.exhaustive
def test_products_of_sharded_models_whose_layers_two_ranks_share_are_those_of_one_process() -> None:
    require_checks(2, "mesh_products")
