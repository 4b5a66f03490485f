"""The operator that loops over a step: its values, its derivatives by finite differences, and its batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from hesse._base import saved_files
from hesse._linearize.program import inductor, recurrence
from hesse._linearize.program.passes.recurrences import compile_steps
from hesse._linearize.program.recurrence import RECUR, recur

DOUBLE = torch.float64


@pytest.mark.parametrize("reverse", [False, True])
def test_a_recurrence_is_the_loop_that_it_stands_for(reverse: bool) -> None:
    torch.manual_seed(0)
    state, x, matrix = [torch.randn(shape, dtype=DOUBLE) for shape in ((2, 3), (4, 2, 3), (3, 3))]
    states, _ = recur("rnn_tanh", reverse, [state], [x], matrix)
    torch.testing.assert_close(states[-1 if reverse else 0], state)
    for t in (3, 2, 1, 0) if reverse else range(4):
        state = (state @ matrix + x[t]).tanh()
        torch.testing.assert_close(states[t if reverse else t + 1], state)


@pytest.mark.parametrize("cell", ["lstm", "masked gru"])
@pytest.mark.one_in(2)
def test_two_derivatives_are_finite_differences(cell: str) -> None:
    torch.manual_seed(0)
    gates, count = (8, 2) if cell == "lstm" else (6, 1)
    state = [torch.randn(1, 2, dtype=DOUBLE, requires_grad=True) for _ in range(count)]
    x, matrix = [torch.randn(*shape, gates, dtype=DOUBLE, requires_grad=True) for shape in ((2, 1), (2,))]
    rest = [torch.randn(2, 1, 2, dtype=DOUBLE), torch.tensor([[[1.0]], [[0.0]]], dtype=DOUBLE)][: 4 - 2 * count]

    def func(x: Tensor, matrix: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        return tuple(recur(cell, True, state, [x, *rest], matrix))

    assert torch.autograd.gradcheck(func, (x, matrix, *state), fast_mode=True)
    assert torch.autograd.gradgradcheck(func, (x, matrix, *state), fast_mode=True)


def test_a_batch_is_one_recurrence_for_all_samples() -> None:
    torch.manual_seed(0)
    states, x, matrices = [torch.randn(3, *shape, dtype=DOUBLE) for shape in ((2, 4), (5, 2, 4), (4, 4))]

    def one(state: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
        return RECUR("rnn_tanh", False, False, [], [state], [x], matrix)[0]

    for in_dims in ((0, 0, 0), (None, 0, None), (0, None, 0)):
        given = [(entry, dim) for entry, dim in zip((states, x, matrices), in_dims, strict=True)]
        batch = torch.func.vmap(one, in_dims)(*[entry if dim == 0 else entry[0] for entry, dim in given])
        for i in range(3):
            single = one(*[entry[i if dim == 0 else 0] for entry, dim in given])
            torch.testing.assert_close(batch[i], single)


@pytest.mark.inductor
def test_a_compiled_step_is_found_on_the_disk_unless_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(saved_files.VARIABLE, str(tmp_path / "programs"))
    state, x, matrix = [torch.randn(shape, dtype=DOUBLE) for shape in ((2, 3), (4, 2, 3), (3, 3))]
    compiled = []
    compile = inductor.compile
    monkeypatch.setattr(
        inductor, "compile", lambda *args, **options: (compiled.append(1), compile(*args, **options))[1]
    )

    def states() -> Tensor:
        recurrence._step.cache_clear()
        return RECUR("rnn_tanh", False, True, [1], [state], [x], matrix)[0]

    expected = recur("rnn_tanh", False, [state], [x], matrix)[0]
    for _ in range(2):
        torch.testing.assert_close(states(), expected)
        assert len(compiled) == 1
    (file,) = (tmp_path / "programs").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=r"The saved step \w+\.program is damaged, so it is compiled again"):
        torch.testing.assert_close(states(), expected)
    assert len(compiled) == 2


def outputs_of_lstm(state: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
    return recur("lstm", False, [state, state], [x], matrix)[0]


def recurrences_of(func: Callable[..., Any]) -> tuple[torch.fx.GraphModule, Any]:
    """The graph of a function of the arguments of ``outputs_of_lstm``, and the last recurrence in it."""
    shapes = (2, 3), (4, 2, 12), (3, 12)
    tensors = [torch.randn(shape, dtype=DOUBLE, requires_grad=True) for shape in shapes]
    graph = make_fx(func, tracing_mode="fake")(*tensors)
    return graph, graph.graph.find_nodes(op="call_function", target=RECUR)[-1]


def test_a_compiled_step_writes_what_is_read_and_no_more() -> None:
    graph, node = recurrences_of(outputs_of_lstm)
    graph.graph.eliminate_dead_code()
    compile_steps(graph)
    assert node.args[2:4] == (True, [2, 3, 4, 5, 6])


def test_a_derivative_reads_the_cotangents_that_are_there() -> None:
    _, node = recurrences_of(lambda *tensors: torch.autograd.grad(outputs_of_lstm(*tensors).sum(), tensors))
    # Of the outputs, beside five activations and the memory.
    assert len(node.args[5]) == 1 + 5 + 1


def test_a_state_that_is_no_number_has_a_derivative_that_is_none() -> None:
    x = torch.tensor([[[torch.nan, 1.0, -1.0]]], dtype=DOUBLE, requires_grad=True)
    states = recur("rnn_relu", False, [torch.zeros(1, 3, dtype=DOUBLE)], [x], torch.eye(3, dtype=DOUBLE))[0]
    weights = torch.tensor([2.0, 3.0, 5.0], dtype=DOUBLE)
    (gradient,) = torch.autograd.grad((states[1] * weights).sum(), x)
    # As that of torch.relu.
    torch.testing.assert_close(gradient, torch.tensor([[[2.0, 3.0, 0.0]]], dtype=DOUBLE))
