"""The spectrum of the digits network against its dense float64 Hessian, made by PyTorch's own functional.hessian."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import hesse
from hesse._cli.app import app

from .load import FOLDER, example


def _dense(problem):
    """The Hessian by the flat parameters."""
    names, leaves = list(problem.inputs), list(problem.inputs.values())
    sizes = [leaf.numel() for leaf in leaves]

    def of_flat(x):
        parts = zip(names, x.split(sizes), leaves, strict=True)
        return problem.func({name: part.view_as(leaf) for name, part, leaf in parts})

    flat = torch.cat([leaf.flatten() for leaf in leaves])
    return torch.autograd.functional.hessian(of_flat, flat).numpy()


def _narrow(digits, dtype):
    """The same network with eight units in a layer, 682 parameters, for a dense Hessian that takes seconds."""
    digits.network = lambda: torch.nn.Sequential(
        torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 10)
    )
    return digits.problem(dtype=dtype)


def _check(H, dense):
    """Top ten, trace, mass and moments of a float32 Hessian against the dense float64 one."""
    n = len(dense)
    top = hesse.eigsh(H, 10, which="LA", rng=0)
    expected = scipy.linalg.eigvalsh(dense, subset_by_index=(n - 10, n - 1))[::-1]
    assert top.converged
    assert np.abs(top.values.numpy() / expected - 1).max() <= 1e-4
    trace = hesse.trace(H, rng=0)
    assert trace.converged
    assert trace.interval[0] <= np.trace(dense) <= trace.interval[1]
    rho = hesse.spectral_density(H, num_steps=40, rng=0)
    assert rho.converged
    assert np.trapezoid(rho.density, rho.grid) == pytest.approx(1, abs=1e-6)
    square = dense @ dense
    moments = {
        1: np.trace(dense),
        2: (dense * dense).sum(),
        3: (square * dense).sum(),
        4: (square * square).sum(),
    }
    for power, total in moments.items():
        estimate, (low, high) = rho.moment(power)
        assert low <= total / n <= high
        assert low < estimate < high <= 4 * estimate


def test_the_spectrum_of_a_narrower_network_is_that_of_its_dense_hessian():
    digits = example("digits")
    dense = _dense(_narrow(digits, torch.float64))
    problem = _narrow(digits, torch.float32)
    _check(hesse.Hessian(problem.func, problem.inputs), dense)


@pytest.mark.exhaustive
def test_the_spectrum_of_the_network_is_that_of_its_dense_hessian():
    digits = example("digits")
    dense = _dense(digits.problem(dtype=torch.float64))
    problem = digits.problem()
    _check(hesse.Hessian(problem.func, problem.inputs), dense)


@pytest.mark.exhaustive
def test_the_command_finds_the_eigenvalues_that_arpack_finds(tmp_path):
    words = [FOLDER / "digits.py", "--top", "10", "--bottom", "0", "--probes", "0", "--out", tmp_path / "report"]
    result = CliRunner().invoke(app, ["spectrum", *map(str, words)])
    assert result.exit_code == 0, result.output
    found = json.loads(Path(tmp_path / "report" / "result.json").read_text())["eigenvalues"]
    assert found["converged"]
    problem = example("digits").problem(dtype=torch.float64)
    H = hesse.Hessian(problem.func, problem.inputs)
    expected = scipy.sparse.linalg.eigsh(H.to_scipy(), 10, which="LA", rng=0)[0][::-1]
    assert np.abs([pair["value"] / value - 1 for pair, value in zip(found["top"], expected, strict=True)]).max() <= 1e-4
    tensors = load_file(tmp_path / "report" / "result.safetensors")
    assert tensors["eigenvectors.0.weight"].shape == (10, 64, 64)


def test_it_takes_no_more_products_than_arpack_but_for_the_look_for_missing_ones():
    problem = example("digits").problem()
    H = hesse.Hessian(problem.func, problem.inputs)
    counted = 0

    def count(v):
        nonlocal counted
        counted += 1
        return as_scipy.matvec(v)

    as_scipy = H.to_scipy()
    operator = scipy.sparse.linalg.LinearOperator(H.shape, count, dtype=np.float32)
    scipy.sparse.linalg.eigsh(operator, 10, which="LA", tol=1e-6, rng=0)
    found = hesse.eigsh(H, 10, which="LA", tol=1e-6, rng=0)
    assert found.converged
    assert found.num_products - found.num_looking <= 1.1 * counted
    assert found.num_looking <= 0.5 * counted
