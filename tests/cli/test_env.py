"""``hesse env``: what it prints is what the packages themselves and the system say, and names nobody."""

from __future__ import annotations

import getpass
import platform
import socket
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import safetensors
import scipy
import torch

import hesse


def test_it_prints_versions_and_devices(hesse_command):
    result = hesse_command("env")
    assert result.exit_code == 0, result.output
    lines = dict(line.rstrip().split("  ", 1) for line in result.stdout.splitlines())
    found = {name: value.strip() for name, value in lines.items()}
    assert found["hesse"] == hesse.__version__
    assert found["python"] == platform.python_version()
    # A local suffix such as +cpu is not part of the metadata of every wheel.
    assert found["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert [found[module.__name__] for module in (numpy, scipy, safetensors)] == [
        module.__version__ for module in (numpy, scipy, safetensors)
    ]
    devices = found["devices"].split(", ")
    assert devices[0] == "cpu"
    assert len(devices) == 1 + torch.accelerator.device_count()
    assert torch.get_num_threads() == int(found["threads"].split()[0])


def test_it_names_no_machine_user_or_folder(hesse_command):
    text = hesse_command("env").stdout
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text
    assert not [word for word in text.split() if word == getpass.getuser()]


def test_the_compiler_is_the_one_that_cxx_names(hesse_command, tmp_path, monkeypatch):
    compiler = tmp_path / "my-compiler"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert "my-compiler" in hesse_command("env").stdout
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    lines = hesse_command("env").stdout.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("C++ compiler")] == ["none"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_standard_output_is_told_in_one_sentence():
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "hesse", "env"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 2
    assert ended.stderr == "hesse: Cannot write to standard output: No space left on device.\n"
