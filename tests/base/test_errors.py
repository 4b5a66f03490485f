"""Every error and warning of hesse arrives in another process as it was raised."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import pickle
import pkgutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

import hesse


def _modules():
    yield hesse
    for found in pkgutil.walk_packages(hesse.__path__, "hesse."):
        if found.name != "hesse.__main__":
            yield importlib.import_module(found.name)


CLASSES = sorted(
    {
        value
        for module in _modules()
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__.split(".")[0] == "hesse"
    },
    key=lambda cls: cls.__name__,
)


def _made(cls: type[BaseException]) -> BaseException:
    """One with different words for each argument that it takes."""
    if cls.__init__ in (base.__init__ for base in cls.__mro__ if base.__module__ == "builtins"):
        return cls("the message")
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    values = [ValueError("inner") if "Exception" in str(each.annotation) else f"the {each.name}" for each in parameters]
    return cls(*values)


def _content(error: BaseException) -> tuple:
    kept = {name: repr(value) for name, value in vars(error).items()}
    return type(error), str(error), repr(error.args), kept


def test_there_are_errors_to_try():
    assert {hesse.NoDerivativeError, hesse.MemoryBudgetError, hesse.ConvergenceWarning} <= set(CLASSES)
    assert len(CLASSES) > 10


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_pickles_with_all_that_it_says(cls, protocol):
    error = _made(cls)
    error.add_note("a note")
    again = pickle.loads(pickle.dumps(error, protocol))
    assert _content(again) == _content(error)
    assert _content(copy.copy(error)) == _content(copy.deepcopy(error)) == _content(error)


def fail(_: int) -> None:
    """Raise the error that named an operator and a line."""
    x = torch.tensor([1.5, 2.5])
    hesse.vhp(lambda x: torch.special.zeta(x, torch.full((2,), 2.0)).sum(), x, torch.ones(2))


@pytest.mark.exhaustive
def test_a_worker_process_that_raises_answers():
    with pytest.raises(hesse.NoDerivativeError) as here:
        fail(0)
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as pool,
        pytest.raises(hesse.NoDerivativeError) as there,
    ):
        pool.submit(fail, 0).result(timeout=300)
    assert str(there.value) == str(here.value)
    assert "zeta" in there.value.operator
    assert there.value.place == here.value.place


@contextlib.contextmanager
def _nothing():
    yield


def test_a_warning_from_below_a_decorator_points_at_the_users_line():
    lines = "from hesse._base.errors import warn_caller\ndef warns():\n    warn_caller('told')\n"
    scope = {}
    exec(compile(lines, f"{hesse.__path__[0]}/made.py", "exec"), scope)
    with pytest.warns(UserWarning, match="told") as told:
        _nothing()(scope["warns"])()
    assert [warning.filename for warning in told] == [__file__]
