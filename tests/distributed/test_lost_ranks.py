"""Ranks that leave, never come, or are killed; questions that go on afterwards."""

from pathlib import Path

import pytest

from tests.distributed.launch import HERE, forking, held, torchrun


@pytest.mark.private
@pytest.mark.parametrize("case", ["leaves", "interrupted", "absent"])
@pytest.mark.one_in(3)
def test_a_rank_that_is_missing_is_named_on_the_others(case: str) -> None:
    expected = [f"rank {rank}: {case} soon" for rank in (0, 1)]
    assert held(forking("missing_ranks", case)) == expected


# Which rank is killed at which product after its start, in each life.
@pytest.mark.parametrize(
    "kills",
    [
        ["1:9"],
        pytest.param(["0:6", "1:4"], marks=pytest.mark.exhaustive),
        *[pytest.param([f"{i % 2}:{3 + 2 * i}"], marks=pytest.mark.exhaustive) for i in range(8)],
    ],
)
@pytest.mark.exhaustive
def test_killed_ranks_go_on_with_the_same_digits(kills: list[str], tmp_path: Path, undisturbed: str) -> None:
    # Started anew each time: torchrun's own restarts with gloo may fail to connect to an address of the life before.
    for kill in kills:
        assert "(SIGKILL)" in torchrun(HERE / "killed.py", 2, str(tmp_path), kill).stderr
    said = held(torchrun(HERE / "killed.py", 2, str(tmp_path)))
    assert {line.split()[2] for line in said} == {undisturbed}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digits of ranks that are left alone."""
    said = held(torchrun(HERE / "killed.py", 2, str(tmp_path_factory.mktemp("alone"))))
    (digits,) = {line.split()[2] for line in said}
    return digits


@pytest.mark.parametrize(
    ("kind", "kills"),
    [("parts", 1), *[pytest.param(kind, 30, marks=pytest.mark.exhaustive) for kind in ("parts", "model", "data")]],
)
def test_ranks_that_are_killed_anywhere_go_on_with_the_same_digits(kind: str, kills: int) -> None:
    assert held(forking("lives", kind, str(kills), seconds=1800)) == [f"{kind}: the same digits after {kills} kills"]
