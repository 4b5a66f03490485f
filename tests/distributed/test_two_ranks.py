"""What two ranks compute and refuse, all in one start of both, by torchrun and gloo."""

import pytest

from tests.distributed.launch import require_checks


@pytest.mark.private
def test_two_ranks_agree_with_one_process_and_refuse_alike() -> None:
    require_checks(
        2,
        "shared_products",
        "shared_questions",
        "two_ranks",
        "sharded_products",
        "sharded_batches",
        "sharded_commands",
        "parallel_products",
    )
