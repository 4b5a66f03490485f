"""The digits example: its size, its accuracy, and its products against float64 ones of PyTorch."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from hesse._cli.app import app

from .load import FOLDER, example


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    return example("digits")


def test_the_network_has_8970_parameters_and_reads_the_digits(digits):
    images, labels = digits.data()
    net = digits.train(images, labels)
    assert images.shape == (1797, 64)
    assert sum(p.numel() for p in net.parameters()) == 8970
    assert (net(images).argmax(dim=1) == labels).float().mean() > 0.95


def test_training_is_the_same_every_time_and_leaves_the_generator_alone(digits):
    state = torch.get_rng_state()
    first, second = digits.problem(), digits.problem()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first.inputs[name], second.inputs[name]) for name in first.inputs)
    assert not any(p.requires_grad for p in first.inputs.values())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-12)])
@pytest.mark.one_in(2)
def test_the_commands_product_agrees_with_pytorchs_in_float64(digits, dtype, tolerance, tmp_path):
    reference = digits.problem(dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    vector = {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in reference.inputs.items()
    }
    save_file(vector, tmp_path / "v.safetensors")
    words = ["vhp", FOLDER / "digits.py", "--vector", tmp_path / "v.safetensors", "--out", tmp_path / "p.safetensors"]
    result = CliRunner().invoke(app, [*map(str, words), "--dtype", dtype])
    assert result.exit_code == 0, result.output
    product = load_file(tmp_path / "p.safetensors")
    names = list(reference.inputs)
    _, expected = torch.autograd.functional.vhp(
        lambda *leaves: reference.func(dict(zip(names, leaves, strict=True))),
        tuple(reference.inputs.values()),
        tuple(vector.values()),
    )
    assert sorted(product) == sorted(names)
    ours = torch.cat([product[name].double().flatten() for name in names])
    theirs = torch.cat([entry.flatten() for entry in expected])
    assert (ours - theirs).norm() <= tolerance * theirs.norm()
