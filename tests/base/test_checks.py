"""One sentence for each argument that is not what it must be: the entry, the argument, what was expected, what came."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hesse._base import checks


def refused(check, *words, **values) -> str:
    """The sentence about the argument x, which names it and the entry."""
    with pytest.raises((TypeError, ValueError)) as told:
        check("entry", *words, **values)
    sentence = str(told.value)
    assert sentence.startswith("x given to entry should be ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence.removeprefix("x given to entry should be ")


@pytest.mark.parametrize("x", [0, 1e-6, 2, math.inf, np.float32(0.5), np.int64(3), torch.tensor(0.5), np.array(2.0)])
def test_numbers(x):
    checks.numbers("entry", x=x)


@pytest.mark.parametrize(
    ("x", "shown"),
    [
        ("1e-6", "'1e-6'"),
        (None, "None"),
        (True, "True"),
        (1j, "1j, of type complex"),
        ([1e-3], "[0.001], of type list"),
        (torch.ones(3), "tensor([1., 1., 1.]), of type Tensor"),
        (torch.ones(30, 30), "of type Tensor"),
        (torch.tensor(1j), "tensor(0.+1.j), of type Tensor"),
        (torch.Generator(), "of type Generator"),
        (float, "the class float"),
        (math.sin, "of type builtin_function_or_method"),
    ],
)
def test_what_is_no_number(x, shown):
    assert refused(checks.numbers, x=x) == f"a number but is {shown}."
    assert refused(checks.fractions, x=x) == f"a number but is {shown}."


@pytest.mark.parametrize(("least", "x"), [(0, -1), (0, math.nan), (0, -1e-300), (0.5, 0.25), (0, torch.tensor(-2.0))])
def test_numbers_out_of_range(least, x):
    with pytest.raises(ValueError, match=f"^x given to entry should be at least {least} but is "):
        checks.numbers("entry", least=least, x=x)


@pytest.mark.parametrize("x", [0, 1, -0.5, math.nan, 95])
def test_fractions_out_of_range(x):
    with pytest.raises(ValueError, match=r"^x given to entry should be between 0 and 1 but is "):
        checks.fractions("entry", x=x)


def test_whole_numbers():
    for x in (1, 10**30, np.int32(4), torch.tensor(4), np.array(4)):
        checks.wholes("entry", 1, x=x)
    checks.wholes("entry", None, x=-5)
    for x in ("3", 3.0, None, True, [3], torch.tensor(3.0), object):
        assert refused(checks.wholes, 1, x=x).startswith("a whole number but is ")
    with pytest.raises(ValueError, match=r"^x given to entry should be at least 2 but is 1\.$"):
        checks.wholes("entry", 2, x=np.int64(1))


def test_what_is_optional_may_be_none_and_nothing_else():
    checks.numbers("entry", optional=True, x=None)
    checks.wholes("entry", 1, optional=True, x=None)
    checks.functions("entry", optional=True, x=None)
    checks.devices("entry", optional=True, x=None)
    refused(checks.numbers, x="", optional=True)
    refused(checks.wholes, 1, x=False, optional=True)
    refused(checks.functions, x=0, optional=True)
    refused(checks.devices, x="somewhere", optional=True)


def test_flags():
    for x in (True, False, np.True_, 0, 1):
        checks.flags("entry", x=x)
    for x in ("yes", None, 2, 0.0, [], torch.ones(3)):
        assert refused(checks.flags, x=x).startswith("True or False but is ")


def test_choices():
    checks.choices("entry", ("cg", "minres"), x="cg")
    assert refused(checks.choices, ("cg", "minres"), x="gmres") == "one of 'cg', 'minres' but is 'gmres'."
    assert refused(checks.choices, ("cg", "minres"), x=np.ones(3)).startswith("one of 'cg', 'minres' but is ")


def test_functions():
    class Callback:
        def __call__(self):
            return True

    for x in (math.sin, lambda: 0, Callback(), torch.nn.MSELoss(), torch.exp, int):
        checks.functions("entry", x=x)
    assert refused(checks.functions, x=None) == "callable but has type <class 'NoneType'>."
    assert refused(checks.functions, x=torch.nn.MSELoss) == (
        "a function but is the class MSELoss. Give an instance of it, such as MSELoss()."
    )
    assert "Give an instance of it, such as Callback()" in refused(checks.functions, x=Callback)


def test_sequences():
    for x in ([1, 2.5], (0.0,), range(3), torch.arange(3.0), np.ones(2), [], iter([1.0])):
        assert all(type(number) is float for number in checks.listed("entry", "x", x))
    assert checks.listed("entry", "x", torch.arange(3)) == [0.0, 1.0, 2.0]
    for x in (1.0, None, "12", ["a"], [[1.0]], torch.tensor(1.0), torch.ones(2, 2)):
        assert refused(lambda entry, x: checks.listed(entry, "x", x), x=x).startswith("a sequence of numbers but is ")


def test_devices_and_paths():
    for x in ("cpu", torch.device("cpu"), "cuda:3"):
        checks.devices("entry", x=x)
    for x in ("somewhere", 1.5, None, [], object()):
        assert refused(checks.devices, x=x).startswith("a device but is ")
    for x in ("a", Path("a")):
        checks.paths("entry", x=x)
    for x in (None, 3, b"a", ["a"]):
        assert refused(checks.paths, x=x).startswith("a path but is ")
