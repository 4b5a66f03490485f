"""Arguments and options that commands share: the problem file, and what to make of its tensors."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import torch
import typer

from hesse._cli.failures import CommandError, sentence
from hesse._linearize.options import Name


class Dtype(enum.StrEnum):
    """The precisions that a problem can be cast to."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    BFLOAT16 = "bfloat16"

    @property
    def torch(self) -> torch.dtype:
        """PyTorch's dtype of that name."""
        return {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}[self.value]


class Engine(enum.StrEnum):
    """The engines by name."""

    TAPE = "tape"
    COMPILED = "compiled"
    AUTO = "auto"

    @property
    def kind(self) -> Name:
        """What operators call it."""
        name: Name = self.value
        return name


EngineOption = Annotated[
    Engine | None,
    typer.Option(
        "--engine",
        help="tape keeps the autograd graph; compiled compiles the gradient and the product first, which takes seconds"
        " and pays with many products; auto begins with the tape and compiles where the expected products pay for it."
        " When left out: what the problem's options say, else auto.",
        show_default=False,
    ),
]
ProblemFile = Annotated[Path, typer.Argument(metavar="PROBLEM", help="Python file with a function problem().")]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Device to compute on, say cpu or cuda. Passed to problem() if it takes a keyword device;"
        " otherwise the inputs are moved there, and only they.",
    ),
]
DtypeOption = Annotated[
    Dtype | None,
    typer.Option(
        "--dtype",
        help="Precision to compute in; complex inputs get the complex counterpart. Passed to problem() if it"
        " takes a keyword dtype; otherwise the inputs are cast, and only they.",
    ),
]


def to_device(name: str | None) -> torch.device | None:
    """The device of that name, or one sentence that says why it cannot be used."""
    if name is None:
        return None
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # PyTorch has no one error for this: an assertion when built without CUDA, others for names and drivers.
    except Exception as error:
        raise CommandError(f"--device {name} cannot be used: {sentence(error)}") from error
    if device.type == "meta":
        raise CommandError("--device meta cannot be used: its tensors hold no numbers.")
    return device
