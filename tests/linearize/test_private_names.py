"""The private names of PyTorch that the compiled engine uses, used alone: what moved in a release shows here first."""

from __future__ import annotations

import platform
from typing import Any
from unittest import mock

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import hesse
from hesse._linearize import peak
from hesse._linearize.program import graph, inductor, minimal_cut, runs, stand_ins
from hesse._linearize.program.known_values import KnownValues
from hesse._linearize.program.wrapper import Wrapper


@pytest.mark.private
def test_stand_ins_have_shapes_and_refuse_to_tell_values() -> None:
    with stand_ins.new_mode():
        made = torch.ones(2, 3)
        assert stand_ins.is_stand_in(made @ made.T)
        assert (made @ made.T).shape == (2, 2)
        with pytest.raises(Exception, match=r"_local_scalar_dense"):
            float(made.sum())


@pytest.mark.private
def test_real_tensors_are_replaced_below_autograd() -> None:
    real = torch.ones(3)
    with stand_ins.new_mode() as mode:
        x = torch.empty(3)
    stand_in = stand_ins.stand_in(mode, real)
    known = KnownValues({id(real): real}, {id(real): stand_in})
    with mode, stand_ins.Substitute({id(real): stand_in}, known):
        recorded = make_fx(lambda x, captured: torch.sin(x) * real)(x, stand_in)
    assert [node.op for node in recorded.graph.nodes].count("placeholder") == 2
    assert not list(recorded.graph.find_nodes(op="get_attr"))


@pytest.mark.private
def test_the_partitioner_keeps_the_point_alone() -> None:
    def joint(x: torch.Tensor, v: torch.Tensor) -> list[torch.Tensor]:
        return [x.sin(), ((x.cos() * v) @ v).tanh()]

    with stand_ins.new_mode():
        inputs = [torch.empty(3, 3), torch.empty(3, 3)]
        joint_graph = make_fx(joint)(*inputs)
    for node, name in zip(joint_graph.graph.find_nodes(op="placeholder"), ("primals_1", "tangents_1"), strict=True):
        node.name = node.target = name
    joint_graph.recompile()
    first, replay = minimal_cut.min_cut_rematerialization_partition(
        joint_graph, inputs, num_fwd_outputs=1, static_lifetime_input_indices=[0]
    )
    assert [str(node) for node in first.graph.output_node().args[0]] == ["sin", "primals_1"]
    assert [node.target for node in replay.graph.find_nodes(op="placeholder")] == ["primals_1", "tangents_1"]
    run = inductor.compile(replay)
    x, v = torch.randn(3, 3), torch.randn(3, 3)
    torch.testing.assert_close(next(iter(run([x, v]))), ((x.cos() * v) @ v).tanh())
    half = Wrapper.of(runs.without_wrapper(run))
    assert half is not None
    assert [kernel.module for kernel in half.kernels] == ["kernel_0", "kernel_1"]
    assert len({kernel.file for kernel in half.kernels}) == 1


@pytest.mark.private
def test_vector_instructions_are_taken_without_trials_unless_the_user_chose() -> None:
    with stand_ins.new_mode() as mode:
        with inductor.settings(mode):
            assert inductor.inductor_config.cpp.vec_isa_ok or platform.machine() != "x86_64"
        with inductor.inductor_config.patch({"cpp.vec_isa_ok": False}), inductor.settings(mode):
            assert inductor.inductor_config.cpp.vec_isa_ok is False


@pytest.mark.private
def test_the_code_of_a_graph_is_written_when_it_first_runs() -> None:
    def make() -> graph.Graph:
        made = graph.copy_of(make_fx(torch.sin)(torch.ones(3)))
        graph.set_results(made, graph.inputs_of(made))
        return made

    with mock.patch.object(
        torch.fx.Graph, "python_code", autospec=True, side_effect=torch.fx.Graph.python_code
    ) as code:
        made = graph.lazily(make)()
        assert code.call_count == 0
        assert torch.equal(made(torch.ones(3))[0], torch.ones(3))
        assert code.call_count == 1


@pytest.mark.private
def test_decompositions_leave_out_what_draws() -> None:
    table = inductor.decompositions()
    assert torch.ops.aten.native_layer_norm.default in table
    assert torch.ops.aten.native_dropout.default not in table


@pytest.mark.private
def test_the_allocators_events_come_in_their_order() -> None:
    x = torch.ones(1000)
    _, taken = peak.during(lambda: (x + 1, (x + 2).sum() + (x + 3).sum()), torch.device("cpu"))
    # What is returned, one temporary at a time, and a few numbers.
    assert taken is not None
    assert 8000 <= taken <= 8100


@pytest.mark.private
def test_what_inductor_compiles_runs_without_its_wrapper() -> None:
    H = hesse.Hessian(lambda x: (x**4).sum(), torch.ones(3), engine="compiled")
    H @ torch.ones(3)
    point: Any = H._point
    (program,) = point.engines.programs_of("gradient").programs
    (run,) = program.runs.values()
    assert not hasattr(run, "current_callable")
    v = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(H @ v, 12 * v)
