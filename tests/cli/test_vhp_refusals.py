"""One sentence and exit code 2 for what hesse refuses; the user's traceback and exit code 1 for what fails in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from .refusals import check_refused

MODULE = "import hesse, torch\n"
# What the commands share they refuse alike.
EVERY = pytest.mark.parametrize("command", ["vhp", "spectrum", "check"])
WRITING = pytest.mark.parametrize("command", ["vhp", "spectrum"])


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("import nothing_of_that_name\n", ["problem.py does not import (line 1)", "nothing_of_that_name"]),
        ("def problem(:\n", ["problem.py does not import", "SyntaxError", "line 1"]),
        ("\nraise SystemExit('no')\n", ["problem.py does not import (line 2)", "SystemExit"]),
        ("x = 1\n", ["problem.py has no function problem()"]),
        ("problem = 1\n", ["problem.py has no function problem()"]),
        ("def problem():\n    return {}\n", ["should return a hesse.Problem but returned <class 'dict'>"]),
        ("def problem(size):\n    return size\n", ["should need no arguments but needs 'size'"]),
        (
            MODULE + "def problem():\n    return hesse.Problem(func=3, inputs=torch.ones(2))\n",
            ["makes no valid problem", "func given to Problem must be callable", "int"],
        ),
        (
            MODULE + "def problem():\n    return hesse.Problem(func=torch.sum, inputs={'a': torch.arange(3)})\n",
            ["makes no valid problem", "floating-point or complex", "['a']", "torch.int64"],
        ),
        (
            MODULE + "def problem():\n    return hesse.Problem(func=torch.sum, inputs=[torch.ones(2), 'x'])\n",
            ["makes no valid problem", "[1]", "str"],
        ),
        (
            MODULE + "def problem():\n    return hesse.Problem(func=torch.sum, inputs={})\n",
            ["makes no valid problem", "at least one Tensor"],
        ),
        (
            MODULE + "def problem():\n    return hesse.Problem(func=torch.sin, inputs=torch.ones(2))\n",
            ["should contain a single element"],
        ),
        (
            MODULE + "def problem():\n    return hesse.Problem(func=lambda x: 'x', inputs=torch.ones(2))\n",
            ["outputs of the user-provided function", "str"],
        ),
    ],
)
@EVERY
def test_a_file_that_holds_no_problem_is_one_sentence(source, parts, command, write_problem, hesse_command):
    check_refused(hesse_command(command, write_problem(source)), *parts)


@EVERY
def test_a_missing_problem_file_is_one_sentence(command, hesse_command, tmp_path):
    check_refused(hesse_command(command, "missing.py"), "problem file missing.py does not exist")
    check_refused(hesse_command(command, tmp_path), "cannot be read", "directory")


PAIR = MODULE + (
    "def problem():\n"
    "    return hesse.Problem(func=lambda p: (p['w'] ** 4).sum() + p['b'] ** 2,"
    " inputs={'w': torch.ones(3), 'b': torch.ones(())})\n"
)


@pytest.mark.parametrize(
    ("entries", "part"),
    [
        ({"w": torch.ones(3)}, "has no entry 'b'"),
        ({"w": torch.ones(3), "b": torch.ones(()), "c": torch.ones(1)}, "has an entry 'c'"),
        ({"w": torch.ones(3, 1), "b": torch.ones(())}, "Entry 'w'"),
        ({"w": torch.ones(3, dtype=torch.complex64), "b": torch.ones(())}, "Entry 'w'"),
    ],
)
def test_a_vector_that_does_not_fit_is_one_sentence_naming_the_entry(entries, part, write_problem, hesse_command):
    save_file(entries, "v.safetensors")
    check_refused(hesse_command("vhp", write_problem(PAIR), "--vector", "v.safetensors"), "v.safetensors", part)


def test_an_unreadable_vector_file_is_one_sentence(write_problem, hesse_command):
    path = write_problem()
    Path("v.safetensors").write_bytes(b"no tensors here")
    check_refused(hesse_command("vhp", path, "--vector", "v.safetensors"), "v.safetensors is no readable safetensors")
    check_refused(hesse_command("vhp", path, "--vector", "none.safetensors"), "none.safetensors does not exist")
    check_refused(hesse_command("vhp", path, "--vector", "."), "The vector file .")


def test_an_output_that_cannot_be_written_is_refused_before_the_work(write_problem, hesse_command):
    path = write_problem("raise SystemExit('the file was read')\n")
    Path("folder").mkdir()
    Path("file").touch()
    check_refused(hesse_command("vhp", path, "--out", "none/p.safetensors"), "there is no directory none")
    check_refused(hesse_command("vhp", path, "--out", "folder"), "Cannot write folder")
    check_refused(hesse_command("vhp", path, "--out", "file/p.safetensors"), "there is no directory file")
    check_refused(hesse_command("vhp", path, "--out", "/proc/p.safetensors"), "Cannot write /proc/p.safetensors")
    assert list(Path("folder").iterdir()) == []


@WRITING
def test_inputs_that_share_a_name_cannot_be_written_but_multiplied(command, write_problem, hesse_command):
    path = write_problem(
        MODULE + "def problem():\n    return hesse.Problem(func=lambda p: (p['a.b'] * p['a']['b']).sum(),"
        " inputs={'a.b': torch.ones(1), 'a': {'b': torch.ones(1)}})\n"
    )
    check_refused(hesse_command(command, path, "--out", "p"), "2 of them would be called 'a.b'")
    assert hesse_command(command, path).exit_code == 0
    assert not Path("p").exists()


def test_a_device_that_is_not_there_is_one_sentence(write_problem, hesse_command):
    for name in ("abacus", "meta"):
        check_refused(hesse_command("vhp", write_problem(), "--device", name), f"--device {name} cannot be used")


@pytest.mark.parametrize("words", [("--dtype", "int8"), ("--products", "0"), ("--seed", "x"), ("--unknown",)])
def test_options_that_make_no_sense_are_exit_code_2(words, write_problem, hesse_command):
    assert hesse_command("vhp", write_problem(), *words).exit_code == 2


FAILING = """
    import hesse, torch

    def deeper(x):
        raise ZeroDivisionError("a fault of theirs")

    def problem():
        return hesse.Problem(func=lambda x: deeper(x), inputs=torch.ones(2))
"""
FAILING_BACKWARD = """
    import hesse, torch

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad):
            raise ZeroDivisionError("a fault of theirs")

    def problem():
        return hesse.Problem(func=lambda x: Cube.apply(x).sum(), inputs=torch.ones(2))
"""
FAILING_PROBLEM = """
    def problem():
        raise ZeroDivisionError("a fault of theirs")
"""


@EVERY
@pytest.mark.parametrize("source", [FAILING, FAILING_BACKWARD, FAILING_PROBLEM])
def test_a_failure_in_their_code_is_their_traceback(source, command, write_problem, hesse_command):
    out = () if command == "check" else ("--out", "p.safetensors")
    result = hesse_command(command, write_problem(source), *out)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert result.stderr.endswith("ZeroDivisionError: a fault of theirs\n")
    assert 'raise ZeroDivisionError("a fault of theirs")' in result.stderr
    assert "hesse/_cli" not in result.stderr
    assert not Path("p.safetensors").exists()


def test_a_traceback_starts_at_their_code(write_problem, hesse_command):
    result = hesse_command("vhp", write_problem(FAILING))
    assert result.stderr.splitlines()[1].startswith('  File "problem.py", line 8, in <lambda>')


def test_a_function_that_cannot_be_called_with_the_inputs_fails_as_theirs(write_problem, hesse_command):
    source = MODULE + "def problem():\n    return hesse.Problem(func=torch.dot, inputs=torch.ones(2))\n"
    result = hesse_command("vhp", write_problem(source))
    assert result.exit_code == 1
    assert "TypeError: dot()" in result.stderr


def test_a_failure_after_a_cast_hints_at_captured_tensors(write_problem, hesse_command):
    path = write_problem(
        """
        import hesse, torch

        weight = torch.ones(3)

        def problem():
            return hesse.Problem(func=lambda x: (x @ weight) ** 2, inputs=torch.ones(3))
        """
    )
    result = hesse_command("vhp", path, "--dtype", "float64")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "hesse: --dtype changed the inputs only, not the tensors that the function captures; if that is the reason,"
        " let problem(dtype=None) make them all."
    )
    assert hesse_command("vhp", path).exit_code == 0


@EVERY
def test_an_interruption_is_exit_code_130(command, write_problem, hesse_command):
    source = MODULE + (
        "def func(x):\n    raise KeyboardInterrupt\n"
        "def problem():\n    return hesse.Problem(func=func, inputs=torch.ones(2))\n"
    )
    result = hesse_command(command, write_problem(source))
    assert result.exit_code == 130
    assert result.output == ""


def test_a_comparison_that_pytorch_cannot_make_is_one_sentence(write_problem, hesse_command, monkeypatch):
    def refuse(*_):
        raise RuntimeError("not here")

    monkeypatch.setattr(torch.autograd.functional, "vhp", refuse)
    result = hesse_command("vhp", write_problem(), "--compare")
    check_refused(result, "--compare: torch.autograd.functional.vhp fails on this problem: RuntimeError: not here")


def test_a_function_that_fails_in_the_comparison_is_their_traceback(write_problem, hesse_command):
    source = """
        import hesse, torch

        runs = []

        def func(x):
            runs.append(x)
            if len(runs) > 1:
                raise ValueError("only once")
            return (x**4).sum()

        def problem():
            return hesse.Problem(func=func, inputs=torch.ones(2))
    """
    assert hesse_command("vhp", write_problem(source)).exit_code == 0
    result = hesse_command("vhp", write_problem(source), "--compare")
    assert result.exit_code == 1
    assert result.stderr.endswith("ValueError: only once\n")
