"""What several ranks compute and refuse, against one process in float64.

A small set of checks runs every time: one of each operator, mechanism and kind of question. All of them are among the
exhaustive tests.
"""

import pytest

from tests.distributed.launch import require_checks

ON_TWO = {
    "two_ranks": ["fsdp", "tensor_parallel", "data_parallel", "questions", "loaders", "plain_dtensors"],
    "shared_products": [
        *["the_four_operators", "sums_and_programs", "masked_rows_and_empty_ranks", "draws", "functions", "data_block"],
        *["points_that_move", "collectives", "sparse_matrices"],
    ],
    "shared_refusals": [
        *["errors_of_one_rank", "other_questions_on_one_rank", "other_models_on_one_rank"],
        *["wrappers_with_a_forward_of_their_own", "loaders"],
    ],
    "shared_questions": ["eigenvalues", "warnings_of_the_first_rank", "other_groups"],
    "sharded_products": ["the_four_operators", "errors_of_one_rank", "refusals"],
    "sharded_batches": ["minima", "autocast_in_place_of_a_policy"],
    "sharded_commands": ["products_that_the_command_makes", "functions_of_a_sharded_model"],
    "parallel_products": ["the_four_operators", "refusals", "derivatives_that_miss_a_term", "functions"],
    "parallel_errors": ["errors_of_one_rank", "errors_within_a_layer"],
    "questions_on_parts": ["eigenvalues", "solves", "algebra", "refusals"],
}
# Of four, pairs can both hold copies or share layers, and shard.
ON_FOUR = {
    "sharded_layouts": ["copies_of_pieces"],
    "mesh_products": ["frozen_parameters", "refusals"],
    "questions_on_parts": ["copies"],
}


@pytest.mark.private
@pytest.mark.parametrize(("ranks", "small"), [(2, ON_TWO), (4, ON_FOUR)], ids=["two", "four"])
def test_ranks_agree_with_one_process_and_refuse_alike(ranks: int, small: dict[str, list[str]]) -> None:
    require_checks(ranks, *[f"{module}.{check}" for module, checks in small.items() for check in checks])


@pytest.mark.exhaustive
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    "module", sorted({*ON_TWO, *ON_FOUR, "sharded_language_models", "parallel_questions"} - {"two_ranks"})
)
def test_every_check_of_a_module_holds(module: str, ranks: int) -> None:
    require_checks(ranks, module)
