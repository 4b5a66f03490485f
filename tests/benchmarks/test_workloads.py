"""The workloads, in their tiny sizes."""

import pytest
import torch
from benchmarks.answers import reference
from benchmarks.contestants import torch_autograd, torch_func
from benchmarks.contestants.base import split_rows
from benchmarks.workloads.base import count_matmuls
from benchmarks.workloads.mlp import perceptron

from benchmarks import machine, workloads
from hesse._linearize.program.backends import EAGER
from tests.linearize import programs

PLAIN = ["cubic", "rosenbrock", "lennard-jones-pairs", "lennard-jones-all"]


@pytest.mark.parametrize("name", workloads.BUILDERS)
@pytest.mark.one_in(5)
def test_float32_and_float64_are_the_same_problem(name):
    if name == "digits":
        pytest.importorskip("sklearn", reason="its digits are the data")
    expected = reference(workloads.build(name, torch.float64, quick=True), torch.float32)
    workload = workloads.build(name, quick=True)
    prepared = torch_autograd.prepare(workload, split_rows(workload))
    for column in ("lone", "one", "many"):
        answer = getattr(prepared, column)()
        assert expected.error(prepared, column, answer) < expected.tolerance


# PyTorch itself scripts its forward-mode rules when they are first used.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is")
@pytest.mark.parametrize("name", PLAIN)
def test_two_modes_of_differentiation_agree(name):
    workload = workloads.build(name, torch.float64, quick=True)
    expected = reference(workload, torch.float64)
    prepared = torch_func.prepare(workload, torch_func.lay_out(workload))
    assert expected.error(prepared, "many", prepared.many()) < expected.tolerance


def test_both_energies_of_the_cluster_are_one_function():
    pairs = workloads.build("lennard-jones-pairs", torch.float64, quick=True)
    everything = workloads.build("lennard-jones-all", torch.float64, quick=True)
    torch.testing.assert_close(pairs.func(pairs.inputs), everything.func(everything.inputs))
    torch.testing.assert_close(reference(pairs, torch.float64).rows, reference(everything, torch.float64).rows)


def test_the_network_view_is_the_same_function():
    workload = workloads.build("resnet", torch.float64, quick=True)
    view = workload.supervised
    torch.testing.assert_close(view.loss(view.model(view.batch[0]), view.batch[1]), workload.func(workload.inputs))


def test_the_digits_network_has_its_8970_parameters():
    assert sum(parameter.numel() for parameter in perceptron(64, 64, 64, 10).parameters()) == 8970


def test_matmuls_are_counted_by_layer():
    # The first layer costs 4 and 2 products of matrices, the second 9 and 6.
    ratio = count_matmuls(perceptron(7, 5, 3), torch.randn(2, 7))
    assert ratio == pytest.approx((4 * 35 + 9 * 15) / (2 * 35 + 6 * 15))


@pytest.mark.exhaustive
def test_the_machine_is_measured_and_the_work_of_a_replay_counted():
    # What a program keeps is known before it is compiled.
    with programs.running(EAGER):
        found = machine.measure(workloads.build("mlp", quick=True), quick=True)
    assert found["flops"] > 0
    assert found["flops_per_second"] > 1e8
    assert found["bytes_per_second"] > 1e8
    inputs = sum(leaf.numel() * leaf.itemsize for leaf in workloads.build("mlp", quick=True).leaves)
    assert found["bytes"] > 2 * inputs
