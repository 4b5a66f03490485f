"""Checkpoints: the state of a question, written as it goes on; from there it goes on with the same digits."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hesse._base import checks
from hesse._base.errors import CheckpointWarning, warn_caller
from hesse._operators.linear_map import Decisions
from hesse._operators.operator import Operator
from hesse._operators.probes import Rng
from hesse._ranks.group import Ranks
from hesse._solvers import checkpoint_file
from hesse._solvers.checkpoint_file import State, digest
from hesse._solvers.checkpoint_places import place, why_unwritten

__all__ = ["Checkpoint", "Keeper", "State", "fingerprint", "is_same", "origin"]

PROBE_SEED = 20_260_101
# Between the kind of an operator and the numbers of its product, which are compared within rounding.
_ROUNDED = " ~ "
_ENTRIES = 64
# In units of eps; of bfloat16, no more than this part.
_ROUNDINGS, _MOST = 100, 0.05
OTHER = "was written for another operator, or at another point of it"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a question keeps its state, and how often.

    A question that finds a file there goes on from it, on the same machine with the same digits as if it had never been
    stopped; otherwise it begins, and writes it. The file stays when the question is done. Where a callback
    stops a question, the last step may not be written.

    Attributes:
        path: a file, written whole or not at all.
        seconds: how long the question goes on between two writings; zero writes after every step.

    Example:
        >>> import torch, hesse, tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "solve.safetensors"
        ...     found = hesse.solve(2 * torch.eye(3), torch.ones(3), checkpoint=hesse.Checkpoint(path, seconds=0))
        ...     path.exists()
        True
    """

    path: str | Path
    seconds: float = 60.0

    def __post_init__(self) -> None:
        checks.paths("Checkpoint", path=self.path)
        checks.numbers("Checkpoint", seconds=self.seconds)

    @staticmethod
    def of(checkpoint: Checkpoint | str | Path | None) -> Checkpoint | None:
        """From the argument of a question."""
        if checkpoint is None or isinstance(checkpoint, Checkpoint):
            return checkpoint
        return Checkpoint(checkpoint)


def origin(rng: Rng, generator: np.random.Generator) -> Any:
    """Where random numbers begin, as a setting that a checkpoint compares: the seed, or else the generator's state."""
    return rng if rng is None or isinstance(rng, int) else generator.bit_generator.state


def fingerprint(operator: Operator) -> str:
    """What tells operators and points apart: their kind, and one seeded product, to the bit or by a few numbers.

    On an accelerator additions are made in any order, so that the same product has other last digits each time.
    """
    # Of two signs that are equal no difference is left, and with it none of what acts on differences.
    probe = operator.randn(1, PROBE_SEED)
    product = operator.matmat(probe).detach()
    kind = f"{type(operator).__name__} {operator.shape}"
    if product.device.type == "cpu":
        return f"{kind} {digest(product)}"
    entries = product[:: max(1, len(product) // _ENTRIES), 0][:_ENTRIES]
    # Products round as what they are computed in, which may be coarser than the vectors.
    rounding = torch.finfo(operator._precision()).eps
    numbers = torch.stack([operator.gram(product, product)[0, 0].sqrt(), operator.gram(probe, product)[0, 0]])
    found = torch.cat([numbers, entries]).cpu().double().tolist()
    return f"{kind}{_ROUNDED}{' '.join([f'{one:.17g}' for one in (rounding, *found)])}"


def is_same(one: Any, other: Any) -> bool:
    """Whether settings, fingerprints among them, are the same: those of products on accelerators within rounding."""
    if not (isinstance(one, str) and isinstance(other, str) and _ROUNDED in one and _ROUNDED in other):
        return bool(one == other)
    (kind, left), (other_kind, right) = [mark.split(_ROUNDED) for mark in (one, other)]
    if kind != other_kind:
        return False
    a, b = [np.array(mark.split(), dtype=np.float64) for mark in (left, right)]
    # The first number is the rounding, and the second the norm of the product.
    tolerance = min(_ROUNDINGS * max(a[0], b[0]), _MOST) * a[1]
    return bool(np.all(abs(a - b)[1:] <= tolerance))


class Keeper:
    """A question's checkpoint while the question goes on.

    The conduct of the operator and the number of threads decide on digits; a question that goes on takes them over, and
    gives the threads back at its end.

    Args:
        checkpoint: where, and how often.
        question: the question's name.
        operator: what it asks.
        settings: its other arguments: JSON, or tensors and operators, which are told apart to the bit.

    Attributes:
        saved: the state to go on from, or None.

    Raises:
        CheckpointError: the file is of another question, operator or version, or damaged.
    """

    def __init__(self, checkpoint: Checkpoint, question: str, operator: Operator, settings: Mapping[str, Any]) -> None:
        self._path, self._seconds = Path(checkpoint.path), checkpoint.seconds
        self._place, self._question = place(self._path, operator), question
        self._threads = torch.get_num_threads()
        self._written = time.monotonic()
        # Why the last writing failed, if it did.
        self._failure = ""
        self.saved: State | None = None
        header, tensors = self._place.read()
        try:
            if header is not None:
                self.refuse_unless(header["question"] == question, f"is of {header['question']}, not of {question}")
                torch.set_num_threads(header["threads"])
            told = marks(settings)
            if header is not None:
                self._place.together(lambda: self._load(header, tensors, told, operator.device))
            self._header = {
                "question": question,
                "settings": told,
                "threads": torch.get_num_threads(),
                "decisions": self._decide(operator, None if header is None else header["decisions"]),
                "operator": fingerprint(operator),
            }
            if header is not None:
                mark = self._header["operator"]
                self._place.together(lambda: self.refuse_unless(is_same(header["operator"], mark), OTHER))
        except BaseException:
            self.close()
            raise

    def refuse_unless(self, right: bool, why: str) -> None:
        """Raise, and leave the file as it is, unless that is right."""
        if not right:
            checkpoint_file.refuse(self._path, why)

    def _load(
        self, header: dict[str, Any], tensors: dict[str, Tensor], told: dict[str, Any], device: torch.device
    ) -> None:
        for name, value in told.items():
            found = header["settings"].get(name)
            self.refuse_unless(is_same(found, value), f"was written with {name} {found}, not {value}")
        self.saved = checkpoint_file.saved(self._path, header, tensors, device)

    def _decide(self, operator: Operator, earlier: Decisions | None) -> Decisions:
        try:
            return operator.decide(earlier)
        except (LookupError, TypeError) as error:
            # Another kind of operator decides on other things.
            checkpoint_file.refuse(self._path, OTHER, error)

    def keep(self, state: Callable[[], State]) -> None:
        """Write the state if it is time; where that fails, say so and let the question go on."""
        if not self._place.is_due(time.monotonic() - self._written >= self._seconds):
            return
        try:
            self._place.write(self._header, state, _plain)
        except Exception as error:
            known, self._failure = self._failure, why_unwritten(error)
            if not known:
                warn_caller(
                    f"The checkpoint {self._path} cannot be written: {self._failure}. {self._question} goes on without"
                    " it, and will try again.",
                    CheckpointWarning,
                )
        else:
            self._failure = ""
        self._written = time.monotonic()

    def close(self) -> None:
        """Give the threads back, and say if what is known at the end is not in the file."""
        torch.set_num_threads(self._threads)
        if self._failure:
            what = "holds an earlier state only" if self._path.exists() else "was never written"
            warn_caller(
                f"At the end of {self._question} the checkpoint {self._path} {what}: {self._failure}. Make room, or"
                " give another path.",
                CheckpointWarning,
            )


def exists(checkpoint: Checkpoint, ranks: Ranks | None) -> bool:
    """Whether there is a file to go on from; on ranks, that of the first."""
    path = Path(checkpoint.path)
    return path.exists() if ranks is None else ranks.of_first(f"the checkpoint {path}", path.exists)


def marks(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON, in which tensors and operators are told apart to the bit."""
    found: dict[str, Any] = json.loads(json.dumps(settings, default=_plain))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Operator):
        return fingerprint(value)
    if isinstance(value, Tensor):
        return digest(value)
    # The state of some of NumPy's generators is an array.
    return value.tolist()
