"""What several ranks compute and refuse, against one process in float64.

A small set of checks runs every time: one of each operator, mechanism and kind of question. All of them are among the
exhaustive tests.
"""

import pytest

from tests.distributed.launch import require_checks

ON_TWO = [
    *["two_ranks", "shared_products"],
    *["shared_questions.eigenvalues", "shared_questions.checkpoints"],
    *["shared_questions.warnings_of_the_first_rank", "shared_questions.other_groups"],
    *["sharded_products.the_four_operators", "sharded_products.unequal_batches", "sharded_products.draws"],
    *["sharded_products.errors_of_one_rank", "sharded_products.refusals"],
    *["sharded_layouts.parts_and_copies"],
    *["sharded_batches.collectives", "sharded_batches.autocast_in_place_of_a_policy"],
    *["sharded_batches.a_batch_that_one_rank_cannot_do"],
    *["sharded_commands.products_that_the_command_makes", "sharded_commands.functions_of_a_sharded_model"],
    *["parallel_products.the_four_operators", "parallel_products.points_that_move"],
    *["parallel_products.errors_of_one_rank", "parallel_products.refusals", "parallel_products.collectives"],
    *["parallel_products.derivatives_that_miss_a_term", "parallel_products.functions", "parallel_products.draws"],
    *["questions_on_parts.eigenvalues", "questions_on_parts.diagonals", "questions_on_parts.determinants"],
    *["questions_on_parts.solves", "questions_on_parts.algebra", "questions_on_parts.refusals"],
    *["questions_on_parts.checkpoints"],
]
# Of four, pairs share layers or hold copies, which two ranks cannot both shard and do.
ON_FOUR = [
    *["shared_products.the_four_operators", "shared_products.masked_rows_and_empty_ranks"],
    *["sharded_products.the_four_operators", "sharded_layouts.parts_and_copies"],
    *["mesh_products.the_four_operators", "mesh_products.refusals"],
    *["questions_on_parts.refusals", "questions_on_parts.copies"],
]


@pytest.mark.private
@pytest.mark.parametrize(("ranks", "names"), [(2, ON_TWO), (4, ON_FOUR)], ids=["two", "four"])
def test_ranks_agree_with_one_process_and_refuse_alike(ranks: int, names: list[str]) -> None:
    require_checks(ranks, *names)


MODULES = [
    *["shared_products", "shared_questions", "sharded_products", "sharded_layouts", "sharded_batches"],
    *["sharded_commands", "sharded_language_models", "parallel_products", "mesh_products", "questions_on_parts"],
]


@pytest.mark.exhaustive
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("module", MODULES)
def test_every_check_of_a_module_holds(module: str, ranks: int) -> None:
    require_checks(ranks, module)
