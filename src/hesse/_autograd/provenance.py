"""Which operator failed in a derivative, and which line of the user's code called it."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
import linecache
import re
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from hesse._autograd.preserving import preserved
from hesse._autograd.thread_state import interruptible


class Frame(NamedTuple):
    """One call in progress: ``File "file", line line, in function``, and the code there where it can be read."""

    file: str
    line: int
    function: str
    code: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Failure(NamedTuple):
    """Where a derivative failed.

    Attributes:
        operator: the operator that has no derivative, with its namespace (``aten::hardsigmoid_backward``); where that
            is not what is wrong, the one whose backward failed (``Exp``, or the name of a custom autograd.Function).
        node: name of the forward operator's node in the autograd graph, such as ``HardsigmoidBackward0``.
        frames: the user's calls in progress when the forward operator was called, innermost first: those that
            belong neither to PyTorch nor to hesse nor to Python's own library.
        error: what the evaluation raised.
    """

    operator: str
    node: str
    frames: tuple[Frame, ...]
    error: Exception

    @property
    def frame(self) -> Frame | None:
        """The user's innermost line, where there is one."""
        return self.frames[0] if self.frames else None


_TORCH = Path(torch.__file__).parent
_HESSE = Path(__file__).parents[1]
_locating: contextvars.ContextVar[bool] = contextvars.ContextVar("_locating", default=False)


@interruptible
def locate(compute: Callable[[], object], func: Callable[..., Any], inputs: Any) -> Failure | None:
    """Run again what failed in a backward, and tell where the operator that failed was called.

    ``compute`` evaluates ``func`` and differentiates it, as often as it takes to fail. It runs once or twice more
    here, in PyTorch's anomaly mode, which is slow and keeps for each operator the stack of the call; so this is only
    for the way of an error. Generators, tensors and modules are put back
    (:func:`~hesse._autograd.preserving.preserved`); what ``func`` prints, it prints again. The mode holds for the
    whole process: other threads are slower meanwhile, and warnings that they give are lost.

    Args:
        compute: takes nothing; raises what is to be explained.
        func: the user's function.
        inputs: the point that ``compute`` evaluates it at.

    Returns:
        Where it failed; None if it did not fail this time, or not in a backward.

    Source:
        https://docs.pytorch.org/docs/stable/autograd.html#anomaly-detection

    Example:
        >>> import torch
        >>> def func(x):
        ...     return torch.nn.functional.hardsigmoid(x).sum()
        >>> x = torch.eye(2)
        >>> failure = locate(lambda: torch.autograd.functional.vhp(func, x, x), func, x)
        >>> failure.node, failure.frame.line
        ('HardsigmoidBackward0', 2)
    """
    # A compute that explains its own failure would come back here without end.
    if _locating.get() or torch.compiler.is_compiling():
        return None
    token = _locating.set(True)
    try:
        error, told = _once_more(compute, func, inputs)
        if _LINE_IS_LOST in _said(error):
            with _Holding():
                error, told = _once_more(compute, func, inputs)
    finally:
        _locating.reset(token)
    return None if error is None else _failure(error, told)


def _once_more(
    compute: Callable[[], object], func: Callable[..., Any], inputs: Any
) -> tuple[Exception | None, list[str]]:
    """What ``compute`` raises in anomaly mode, and its warnings."""
    with (
        preserved(func, inputs),
        warnings.catch_warnings(record=True) as told,
        torch.autograd.set_detect_anomaly(True, check_nan=False),
    ):
        warnings.simplefilter("always")
        try:
            compute()
        except Exception as error:
            return error, [str(warning.message) for warning in told]
        return None, []


# What PyTorch before 2.13 raises of a custom operator whose result is gone, in place of the error that is looked for.
_LINE_IS_LOST = "anomaly metadata of a custom autograd function"


class _Holding(TorchFunctionMode):
    """Within it, tensors that are given to calls or come from them are kept, and so are their lines."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[Any] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._held.append((args, kwargs, result))
        return result


# The node that failed, then the node whose backward made it, and so on back to the forward operator.
_STORY = re.compile(r"\s*(?:Error detected in|Previous calculation was induced by) (?P<node>\S+)\. Traceback")
_FRAME = re.compile(
    r'^  File "(?P<file>.*)", line (?P<line>\d+), in (?P<function>.*)\n(?:    (?P<code>.*)\n)?', re.MULTILINE
)
_NO_DERIVATIVE = re.compile(
    r"derivative for '?(?P<aten>[\w:.]+)'? is not implemented"
    r"|Trying to backward through (?P<custom>[\w.]+) but no autograd"
)


def _failure(error: Exception, told: list[str]) -> Failure | None:
    chain = [(match["node"], message) for message in told if (match := _STORY.match(message))]
    if not chain:
        return None
    node, story = chain[-1]
    return Failure(_operator(error, node), node, _users_frames(story), error)


def _users_frames(story: str) -> tuple[Frame, ...]:
    """The user's frames of a stack, innermost first; those inside ``func`` alone, where there are any."""
    stack = [
        Frame(match["file"], int(match["line"]), match["function"], match["code"] or "")
        for match in _FRAME.finditer(story)
    ]
    inside = itertools.dropwhile(lambda frame: not _is_hesses(frame.file), stack)
    found = [frame for frame in inside if is_users(frame.file)] or [frame for frame in stack if is_users(frame.file)]
    return tuple(reversed(found))


@contextlib.contextmanager
def lines_kept() -> Iterator[None]:
    """Nodes made within it keep the stack of the call, for :func:`frames_of`: anomaly mode, without a word."""
    with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True, check_nan=False):
        warnings.filterwarnings("ignore", message=_STORY.pattern)
        yield


def origin(node: Node) -> Node:
    """The forward operator's node that a node comes from by backwards, all made in anomaly mode; or itself."""
    # Declared as a method, though it is a property.
    kept: Any = node.metadata
    while "parent_" in kept:
        node = kept["parent_"]
        kept = node.metadata
    return node


def frames_of(node: Node) -> tuple[Frame, ...]:
    """The user's calls in progress when an operator was called, innermost first; none if not in anomaly mode."""
    kept: Any = node.metadata
    return _users_frames("".join(kept.get("traceback_", ())))


def calling_frame(frame: FrameType | None = None) -> Frame | None:
    """The user's innermost call in progress, looking outwards from ``frame``, or from the caller."""
    for call in _calls_in_progress(frame or sys._getframe(1)):
        file = call.f_code.co_filename
        if is_users(file):
            return Frame(file, call.f_lineno, call.f_code.co_name, linecache.getline(file, call.f_lineno).strip())
    return None


def in_custom_forward() -> bool:
    """Whether the forward of a custom autograd.Function is in progress."""
    classes = [torch.autograd.Function]
    for cls in classes:
        classes += cls.__subclasses__()
    # Not the frame of apply, which is not Python's in every release.
    run = [code_of(function) for cls in classes for function in (cls.forward, cls.setup_context)]
    return not {call.f_code for call in _calls_in_progress(sys._getframe(1))}.isdisjoint(run)


def _calls_in_progress(frame: FrameType | None) -> Iterator[FrameType]:
    """From ``frame`` outwards, without hesse's own at both ends."""
    left = False
    while frame is not None:
        code = frame.f_code
        if not _is_hesses(code.co_filename):
            left = True
            yield frame
        # A mode of hesse's stands between the user and PyTorch.
        elif left and code.co_name != "__torch_function__":
            return
        frame = frame.f_back


def code_of(function: Callable[..., Any] | None) -> CodeType | None:
    """The code of a function of Python's; none for others."""
    return getattr(function, "__code__", None)


def _operator(error: BaseException, node: str) -> str:
    missing = _NO_DERIVATIVE.search(_said(error))
    if missing is None:
        return operator_name(node)
    if missing["custom"]:
        namespace, name, *_ = missing["custom"].split(".")
        return f"{namespace}::{name}"
    return missing["aten"] if "::" in missing["aten"] else f"aten::{missing['aten']}"


def _said(error: BaseException | None) -> str:
    """The texts of an error and of what caused it."""
    chain: list[BaseException] = []
    # An error may be its own cause.
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__
    return " ".join(map(str, chain))


def operator_name(node: str) -> str:
    """What an operator is called, from the name of its node in the autograd graph: ``Exp`` for ``ExpBackward0``."""
    name = re.sub(r"Backward\d*$", "", node.rsplit("::", 1)[-1])
    return name.removeprefix("GeneratedBackwardFor_").removesuffix("_default")


@functools.cache
def is_users(file: str) -> bool:
    """Whether a file of Python code is neither PyTorch's nor hesse's nor of Python's own library."""
    if file.startswith(("<frozen ", "<eval_with_key>")):  # the interpreter's own modules, and torch.fx's programs
        return False
    path = Path(file)
    if path.is_relative_to(_TORCH) or _is_hesses(file):
        return False
    library = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    installed = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    return not any(map(path.is_relative_to, library)) or any(map(path.is_relative_to, installed))


@functools.cache
def _is_hesses(file: str) -> bool:
    return Path(file).is_relative_to(_HESSE)
