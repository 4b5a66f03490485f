"""What ``hesse spectrum`` refuses: one sentence, exit code 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from .refusals import check_refused

MODULE = "import hesse, torch\n"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--probes", "1"), "--probes should be 0, or at least 2"),
        (("--max-products", "14"), "--max-products should be at least 15, --top plus --bottom, but is 14"),
        (("--device", "abacus"), "--device abacus cannot be used"),
    ],
)
def test_options_that_contradict_each_other_are_one_sentence(words, part, write_problem, hesse_command):
    check_refused(hesse_command("spectrum", write_problem(), *words, "--out", "report"), part)
    assert not Path("report").exists()


@pytest.mark.parametrize("words", [("--top", "-1"), ("--steps", "0"), ("--tol", "-1"), ("--dtype", "int8"), ("--no",)])
def test_options_that_make_no_sense_are_exit_code_2(words, write_problem, hesse_command):
    assert hesse_command("spectrum", write_problem(), *words).exit_code == 2


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(write_problem, hesse_command):
    path = write_problem("raise SystemExit('the file was read')\n")
    Path("file").touch()
    check_refused(hesse_command("spectrum", path, "--out", "file"), "Cannot write to file: it is no directory")
    check_refused(hesse_command("spectrum", path, "--out", "none/report"), "Cannot write none/report")
    check_refused(hesse_command("spectrum", path, "--out", "/proc/report"), "Cannot write /proc/report")


def test_a_point_where_the_hessian_is_not_finite_is_one_sentence(write_problem, hesse_command):
    path = write_problem(
        MODULE + "def problem():\n    return hesse.Problem(func=lambda x: x.sqrt().sum(), inputs=torch.zeros(40))\n"
    )
    check_refused(hesse_command("spectrum", path, "--out", "report"), "Product 1 of trace", "not finite")
    assert not Path("report").exists()


def test_inputs_without_numbers_are_one_sentence(write_problem, hesse_command):
    path = write_problem(
        MODULE + "def problem():\n    return hesse.Problem(func=lambda x: x.sum(), inputs=torch.zeros(0))\n"
    )
    check_refused(hesse_command("spectrum", path), "hold no numbers")


def test_a_failure_in_their_backward_is_their_traceback_and_leaves_nothing(write_problem, hesse_command):
    path = write_problem(
        """
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
    )
    result = hesse_command("spectrum", path, "--out", "report")
    assert result.exit_code == 1
    assert result.stderr.endswith("ZeroDivisionError: a fault of theirs\n")
    assert not Path("report").exists()
