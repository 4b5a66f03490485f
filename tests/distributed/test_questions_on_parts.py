"""Questions where each rank holds a part of every vector; ranks that are killed, and go on."""

import pytest

from tests.distributed.launch import forking, held
from tests.distributed.questions_on_parts import checks


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.exhaustive)])
def test_questions_on_parts_of_vectors_have_the_answers_of_one_process(ranks: int) -> None:
    expected = [f"rank {rank}: {check.__name__} held" for rank in range(ranks) for check in checks(ranks)]
    assert held(forking("questions_on_parts", str(ranks), seconds=540)) == sorted(expected)


@pytest.mark.parametrize(
    ("kind", "kills"),
    [("parts", 1), *[pytest.param(kind, 30, marks=pytest.mark.exhaustive) for kind in ("parts", "model", "data")]],
)
def test_ranks_that_are_killed_anywhere_go_on_with_the_same_digits(kind: str, kills: int) -> None:
    assert held(forking("lives", kind, str(kills), seconds=1800)) == [f"{kind}: the same digits after {kills} kills"]
