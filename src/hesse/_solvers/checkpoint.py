"""Checkpoints: the state of a question, written as it goes on; from there it goes on with the same digits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hesse._base import files
from hesse._base.errors import CheckpointError
from hesse._operators.operator import Operator
from hesse._operators.probes import Rng

State = dict[str, Any]
"""Tensors, whatever JSON holds, and operators, which come back as their fingerprints; names are one space."""

VERSION = 3
PROBE_SEED = 20_260_101


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a question keeps its state, and how often.

    A question that finds a file there goes on from it, on the same machine with the same digits as if it had never been
    stopped; otherwise it begins, and writes it. The file stays when the question is done.

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

    @staticmethod
    def of(checkpoint: Checkpoint | str | Path | None) -> Checkpoint | None:
        """From the argument of a question."""
        if checkpoint is None or isinstance(checkpoint, Checkpoint):
            return checkpoint
        return Checkpoint(checkpoint)


def origin(rng: Rng, generator: np.random.Generator) -> Any:
    """Where random numbers begin, as a setting that a checkpoint compares: the seed, or else the generator's state."""
    return rng if rng is None or isinstance(rng, int) else generator.bit_generator.state


def digest(tensor: Tensor) -> str:
    """A few letters that tell tensors apart to the bit."""
    values = tensor.detach().cpu().contiguous()
    header = f"{values.dtype} {tuple(values.shape)} "
    return hashlib.sha256(header.encode() + values.numpy().tobytes()).hexdigest()[:32]


def fingerprint(operator: Operator) -> str:
    """What tells operators and points apart: their kind, and one seeded product to the bit."""
    product = operator.matmat(operator.signs(1, PROBE_SEED)).detach()
    return f"{type(operator).__name__} {operator.shape} {digest(product)}"


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
        self._threads = torch.get_num_threads()
        self._written = time.monotonic()
        self.saved: State | None = None
        header, tensors = self._read() if self._path.exists() else self._begin()
        try:
            if header is not None:
                self.refuse_unless(header["version"] == VERSION, f"is of version {header['version']}, not {VERSION}")
                self.refuse_unless(header["question"] == question, f"is of {header['question']}, not of {question}")
                torch.set_num_threads(header["threads"])
            marks = json.loads(_text(settings))
            if header is not None:
                for name, value in marks.items():
                    found = header["settings"].get(name)
                    self.refuse_unless(found == value, f"was written with {name} {found}, not {value}")
                self.saved = _join(header["state"], header["places"], tensors, operator.device)
            self._header = {
                "version": VERSION,
                "question": question,
                "settings": marks,
                "threads": torch.get_num_threads(),
                "decisions": operator.decide(header["decisions"] if header is not None else None),
                "operator": fingerprint(operator),
            }
            if header is not None:
                same = header["operator"] == self._header["operator"]
                self.refuse_unless(same, "was written for another operator, or at another point of it")
        except BaseException:
            self.close()
            raise

    def refuse_unless(self, right: bool, why: str) -> None:
        """Raise, and leave the file as it is, unless that is right."""
        if not right:
            raise CheckpointError(
                f"The checkpoint {self._path} {why}, and is left as it is. Give another path, or delete it."
            )

    def _begin(self) -> tuple[None, dict[str, Tensor]]:
        """No file yet: see that there can be one."""
        try:
            with files.beside(self._path):
                return None, {}
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint {self._path} cannot be written: {error.strerror}. Give another path."
            ) from error

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        try:
            with safetensors.safe_open(self._path, framework="pt") as file:
                header = json.loads(file.metadata()["hesse"])
                return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"The checkpoint {self._path} is damaged or no checkpoint of hesse, and is left as it is. Give another"
                " path, or delete it."
            ) from error

    def keep(self, state: Callable[[], State]) -> None:
        """Write the state if it is time."""
        if time.monotonic() - self._written < self._seconds:
            return
        rest, places, tensors = _part(state())
        header = {**self._header, "state": rest, "places": places}
        # A file without a tensor is none that safetensors reads back.
        tensors[""] = torch.zeros(0)
        with files.whole(self._path) as temporary:
            safetensors.torch.save_file(tensors, temporary, {"hesse": _text(header)})
        self._written = time.monotonic()

    def close(self) -> None:
        """Give the threads back."""
        torch.set_num_threads(self._threads)


def _text(header: Mapping[str, Any]) -> str:
    return json.dumps(header, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Operator):
        return fingerprint(value)
    if isinstance(value, Tensor):
        return digest(value)
    # The state of some of NumPy's generators is an array.
    return value.tolist()


def _part(state: State) -> tuple[State, dict[str, Any], dict[str, Tensor]]:
    """The JSON, where and how the tensors lie in memory, and the tensors, contiguous."""
    tensors = {name: value.detach() for name, value in state.items() if isinstance(value, Tensor)}
    rest = {name: value for name, value in state.items() if name not in tensors}
    # Sums are taken in another order where columns lie otherwise in memory, so strides belong to the digits.
    places = {name: (list(value.stride()), value.device.type != "cpu") for name, value in tensors.items()}
    # Copies: safetensors refuses tensors that share memory.
    copies = {name: torch.empty(value.shape, dtype=value.dtype).copy_(value) for name, value in tensors.items()}
    return rest, places, copies


def _join(rest: State, places: dict[str, Any], tensors: dict[str, Tensor], device: torch.device) -> State:
    state = dict(rest)
    for name, (stride, away) in places.items():
        value = tensors[name]
        home = device if away else torch.device("cpu")
        state[name] = torch.empty_strided(value.shape, stride, dtype=value.dtype, device=home).copy_(value)
    return state
