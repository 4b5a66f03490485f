"""A result is written whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from hesse._cli import output
from hesse._cli.failures import CommandError

ENTRIES = {"value": torch.arange(3.0)}


def _full_disk(entries, path, *_):
    Path(path).write_bytes(b"half of")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _crossed(*_):
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


@pytest.mark.parametrize(
    ("owner", "name", "failure"), [(safetensors.torch, "save_file", _full_disk), (os, "replace", _crossed)]
)
def test_a_failed_write_leaves_the_old_file_in_place(owner, name, failure, monkeypatch):
    target = Path("p.safetensors")
    target.write_bytes(b"the old one")
    monkeypatch.setattr(owner, name, failure)
    with pytest.raises(CommandError, match=r"^Cannot write p\.safetensors: .*\.$"):
        output.write_tensors(target, ENTRIES)
    assert target.read_bytes() == b"the old one"
    assert os.listdir() == ["p.safetensors"]


def test_a_failed_write_makes_the_command_exit_with_2(write_problem, hesse_command, monkeypatch):
    monkeypatch.setattr(safetensors.torch, "save_file", _full_disk)
    result = hesse_command("vhp", write_problem(), "--out", "p.safetensors")
    assert result.exit_code == 2
    assert result.stderr == "hesse: Cannot write p.safetensors: No space left on device.\n"
    # The work was done, and what it found is not lost.
    assert "vᵀHv" in result.stdout
    assert os.listdir() == ["problem.py"]


def test_an_older_file_is_replaced_with_its_permissions_and_through_its_link():
    Path("folder").mkdir()
    real, link = Path("folder/real.safetensors"), Path("link.safetensors")
    real.write_bytes(b"the old one")
    real.chmod(0o640)
    link.symlink_to(real)
    output.check(link)
    output.write_tensors(link, ENTRIES)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert torch.equal(safetensors.torch.load_file(real)["value"], ENTRIES["value"])
    assert os.listdir("folder") == ["real.safetensors"]


def test_a_new_file_has_the_permissions_of_any_new_file():
    Path("other").touch()
    output.write_tensors(Path("p.safetensors"), ENTRIES)
    assert Path("p.safetensors").stat().st_mode == Path("other").stat().st_mode


def test_a_check_leaves_nothing_behind():
    output.check(Path("p.safetensors"))
    assert os.listdir() == []
