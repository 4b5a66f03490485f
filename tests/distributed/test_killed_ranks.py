"""Questions whose ranks are killed at random places, and which go on."""

import pytest

from tests.distributed.launch import forking, held


@pytest.mark.parametrize(
    ("kind", "kills"),
    [("parts", 1), *[pytest.param(kind, 30, marks=pytest.mark.exhaustive) for kind in ("parts", "model", "data")]],
)
def test_ranks_that_are_killed_anywhere_go_on_with_the_same_digits(kind: str, kills: int) -> None:
    assert held(forking("lives", kind, str(kills), seconds=1800)) == [f"{kind}: the same digits after {kills} kills"]
