"""A model and its training are the same to the bit with hesse and without, also where hesse ends by an exception."""

from __future__ import annotations

import contextlib
import functools
import random
import re
import zlib
from collections.abc import Iterator

import pytest
import torch

from .architectures import ARCHITECTURES, FROM_LIBRARIES
from .interruption import Interruption, Lines
from .snapshot import Snapshot, bits, differences, settings, snapshot
from .training import Training, seed, steps
from .uses import USES

pytestmark = [
    pytest.mark.usefixtures("uncompiled"),
    # What a model or PyTorch warns of is not what is looked at.
    pytest.mark.filterwarnings("ignore"),
]


@contextlib.contextmanager
def unchanged(training: Training, what: str) -> Iterator[None]:
    """Afterwards everything of a training, and of the process, is as it was: to the bit, and the same objects."""
    before, around, drawn = snapshot(vars(training)), settings(), torch.get_rng_state()
    yield
    if training.draws:
        # An operator draws as one more evaluation does.
        torch.set_rng_state(drawn)
    found = [*differences(before, snapshot(vars(training))), *differences(around, settings())]
    assert not found, f"changed by {what}: {found[:8]}"


def once(training: Training, name: str) -> str | None:
    """One use of hesse; if hesse refuses the model there, what it says."""
    try:
        USES[name](training)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def require_expected(training: Training, name: str, said: str | None) -> None:
    """A use has worked, or was refused for the expected reason; programs may refuse whatever they cannot take."""
    if "compiled" in name and said is not None and said.startswith("CaptureError"):
        return
    expected = next((text for kind, text in training.refused.items() if kind in name), None)
    if expected is None:
        assert said is None, f"{name}: {said}"
    else:
        assert said is not None, f"{name} is no longer refused"
        assert re.search(expected, said), f"{name}: {said}"


def interrupted(training: Training, name: str, lines: Lines, count: int) -> None:
    """The same use a few times again, each with an exception at a line drawn at random."""
    rng = random.Random(zlib.crc32(name.encode()) + len(lines.counts))
    # Some operators take pairs only.
    for _ in range(count if lines.counts else 0):
        error = rng.choice([Interruption, KeyboardInterrupt])
        (file, line), occurrence = lines.choose(rng, error)
        what = f"{name}, {error.__name__} at {'/'.join(file.split('/')[-3:])}:{line}, the {occurrence}th time"
        # Hesse, or the function itself, may take the exception for a reason to do it otherwise.
        with unchanged(training, what), contextlib.suppress(Interruption, KeyboardInterrupt):
            Lines().interrupt(lambda: once(training, name), (file, line), occurrence, error)


def plain(name: str, count: int) -> list[Snapshot]:
    """A training without hesse, as it is wherever it pauses."""
    seed()
    training = ARCHITECTURES[name]()
    found = [bits(vars(training)) for _ in steps(training, count)]
    return [*found, bits(vars(training))]


def compare(name: str, uses: list[str], count: int, interruptions: int) -> None:
    """Train with these uses of hesse in the pauses, one after the other, and compare with the training without."""
    expected = plain(name, count)
    seed()
    training = ARCHITECTURES[name]()
    places = list(range(2 * count))
    for place, _ in enumerate(steps(training, count)):
        assert not differences(expected[place], bits(vars(training)))
        for use in uses[place :: len(places)]:
            lines = Lines()
            with unchanged(training, use):
                said = lines.count(functools.partial(once, training, use))
            require_expected(training, use, said)
            interrupted(training, use, lines, interruptions)
    assert not differences(expected[-1], bits(vars(training)))


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in FROM_LIBRARIES])
@pytest.mark.one_in(6)
def test_training_is_the_same_with_an_operator_over_data(name: str) -> None:
    compare(name, ["LossHessian, tape"], 1, 1)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_is_the_same_with_everything_in_between(name: str) -> None:
    compare(name, list(USES), 3, 2)
