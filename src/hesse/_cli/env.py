"""``hesse env``: the environment, for a report of a fault."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil

import torch
from rich.console import Console

from hesse._base.memory import available, readable
from hesse._base.processor import processor
from hesse._base.version import __version__
from hesse._cli import output
from hesse._cli.failures import reported

PACKAGES = ("torch", "numpy", "scipy", "safetensors")


def env() -> None:
    """Print versions, processor and devices, for a report of a fault.

    No names of machines, users or folders are among them.
    """
    with reported():
        Console().print(output.facts(facts()), highlight=False, markup=False)


def facts() -> list[tuple[str, str]]:
    """Names and values, in the order of the printed lines."""
    cpu = torch.device("cpu")
    return [
        ("hesse", __version__),
        ("python", platform.python_version()),
        *[(name, importlib.metadata.version(name)) for name in PACKAGES],
        ("system", f"{platform.system()} {platform.machine()}"),
        ("processor", f"{processor()} ({torch.backends.cpu.get_cpu_capability()})"),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"),
        ("memory", f"{readable(available(cpu))} available"),
        ("C++ compiler", _compiler() or "none"),
        ("devices", ", ".join(["cpu", *_accelerators()])),
    ]


def _compiler() -> str | None:
    """The compiler that a compiled engine would find; PyTorch looks at CXX first."""
    candidates = (os.environ.get("CXX", ""), "g++", "clang++")
    return next((os.path.basename(name) for name in candidates if name and shutil.which(name)), None)


def _accelerators() -> list[str]:
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return []
    name = getattr(torch.get_device_module(kind), "get_device_name", lambda number: "")
    return [f"{kind.type}:{number} {name(number)}".rstrip() for number in range(torch.accelerator.device_count())]
