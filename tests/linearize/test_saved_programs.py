"""Compiled programs on the disk: what another process finds, and what is captured again."""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

import hesse
from hesse._base import saved_files
from hesse._data.objective import Counted
from hesse._linearize.program import saved, wrapper
from tests.linearize import programs
from tests.linearize.test_compiled_process import run

PROGRAM = """
import sys, torch, hesse

def f(x):
    return ((2.0 * x) ** 3).sum()

x = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
H = hesse.Hessian(f, x, engine="compiled")
products = [H @ torch.ones(3, dtype=torch.float64)]
for _ in range(2):
    x = 2 * x
    H = H.at(x)
    products.append(H @ torch.ones(3, dtype=torch.float64))
loaded = [name for name in ("torch._inductor", "hesse._linearize.program.capture") if name in sys.modules]
print([product.tolist() for product in products], H.explain().lone, loaded)
"""
PRODUCTS = [[48.0, -48.0, 24.0], [96.0, -96.0, 48.0], [192.0, -192.0, 96.0]]


@pytest.mark.exhaustive
def test_a_second_process_captures_and_compiles_nothing(tmp_path: Path) -> None:
    first = run(PROGRAM, HESSE_CACHE_DIR=str(tmp_path))
    assert first == f"{PRODUCTS} True ['torch._inductor', 'hesse._linearize.program.capture']\n"
    assert run(PROGRAM, HESSE_CACHE_DIR=str(tmp_path)) == f"{PRODUCTS} True []\n"


OVER_DATA = """
import sys, torch, hesse

model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Tanh(), torch.nn.Linear(1, 1)).double()
with torch.no_grad():
    [parameter.fill_(0.5) for parameter in model.parameters()]
data = [(torch.tensor([[a]]).double(), torch.tensor([[a**2]]).double()) for a in (1.0, 2.0)]
v = torch.arange(4.0).double()
products = []
for engine in ("compiled", "tape"):
    H = hesse.LossHessian(model, torch.nn.functional.mse_loss, data, engine=engine)
    products.append(H @ v)
torch.testing.assert_close(*products)
print([name for name in ("torch._inductor", "hesse._linearize.program.capture") if name in sys.modules])
"""


@pytest.mark.exhaustive
def test_a_second_process_finds_the_program_of_a_loss(tmp_path: Path) -> None:
    first = run(OVER_DATA, HESSE_CACHE_DIR=str(tmp_path))
    assert first == "['torch._inductor', 'hesse._linearize.program.capture']\n"
    assert run(OVER_DATA, HESSE_CACHE_DIR=str(tmp_path)) == "[]\n"


@pytest.mark.exhaustive
@pytest.mark.parametrize("size", [0, 1000])
def test_a_damaged_kernel_is_told_and_compiled_again(tmp_path: Path, size: int) -> None:
    """A file that was cut off within its code would end the process."""
    noting = "import warnings\nwarnings.simplefilter('default')\n"
    noting += "warnings.showwarning = lambda message, *_, **__: print(message)\n"
    words = {"HESSE_CACHE_DIR": "", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    first = run(noting + PROGRAM, **words)
    assert first.startswith(str(PRODUCTS))
    kernels = list(tmp_path.rglob("*.main.so"))
    assert kernels
    for kernel in kernels:
        os.truncate(kernel, size)
    *told, products = run(noting + PROGRAM, **words).splitlines()
    assert {f"The compiled kernel {kernel} was damaged, so it was compiled again." for kernel in kernels} == set(told)
    assert products + "\n" == first
    assert run(noting + PROGRAM, **words) == first


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(saved_files.VARIABLE, str(tmp_path / "programs"))
    return tmp_path / "programs"


SOURCE = """
class Scale:
    def __init__(self, factor):
        self.factor = factor

factor = 3.0

def helper(x):
    return x**3

def make(inner, scale):
    def f(x):
        return factor * inner * scale.factor * helper(x).sum()
    return f
"""


def function(source: str = SOURCE, inner: float = 2.0, scale: float = 5.0) -> Any:
    """The function of a module with that source, as a process makes it that runs it."""
    module = types.ModuleType("a_users_module")
    exec(source, vars(module))
    return module.make(inner, module.Scale(scale))


def operator(func: Any) -> tuple[hesse.Hessian, bool]:
    """Its operator, compared with the closed form, and whether its program was found on the disk."""
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    H = hesse.Hessian(func, x, engine="compiled")
    point: Any = H._point
    programs = point.engines.programs_of("gradient")
    (program,) = programs.programs
    return H, program in programs._origins and programs._origins[program].is_found


@pytest.mark.private
def test_the_same_function_is_found_and_a_changed_one_is_captured(folder: Path) -> None:
    assert not operator(function())[1]
    H, is_found = operator(function())
    assert is_found
    v = torch.tensor([1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(H @ v, torch.tensor([180.0, -360.0], dtype=torch.float64))
    # Many at once are compiled from the graph that was saved.
    many = torch.stack([v, 2 * v] * 8, dim=1)
    torch.testing.assert_close(H @ many, torch.tensor([[180.0], [360.0]], dtype=torch.float64) * many)
    changed = function(SOURCE.replace("x**3", "x**2 * x * 1.5"))
    H, is_found = operator(changed)
    assert not is_found
    torch.testing.assert_close(H @ v, torch.tensor([270.0, -540.0], dtype=torch.float64))
    assert hesse.clear_saved_programs() == 2
    assert not list(folder.iterdir())


def test_a_damaged_file_is_told_once_and_written_anew(folder: Path) -> None:
    operator(function())
    (file,) = folder.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.warns(
        UserWarning, match=r"The saved program \w+\.program is damaged, so the function is captured again"
    ):
        assert not operator(function())[1]
    assert operator(function())[1]


def test_a_program_that_differs_from_the_tape_is_captured_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return os.get_exec_path.factor * (x**3).sum()  # type: ignore[attr-defined]  # what no walk finds

    monkeypatch.setattr(os.get_exec_path, "factor", 2.0, raising=False)
    operator(func)
    assert operator(func)[1]
    monkeypatch.setattr(os.get_exec_path, "factor", 3.0)
    with pytest.warns(UserWarning, match="A saved program differs from the tape"):
        H, is_found = operator(func)
    assert not is_found
    assert not list(folder.iterdir())
    product = H @ torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(product, torch.tensor([18.0, 36.0], dtype=torch.float64))


def test_kernels_that_are_gone_are_compiled_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator(function())
    load = wrapper.load_kernel
    monkeypatch.setattr(wrapper, "load_kernel", lambda kernel: load(kernel._replace(digest="another")))
    assert not operator(function())[1]


def name(func: Any) -> str | None:
    x = torch.ones(2)
    origin = saved.origin_of(func, func, None, x, [x], ("rmatvec",), None)
    return None if origin is None else origin.name


def test_what_a_program_depends_on_is_in_the_name_of_its_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = name(function())
    assert usual is not None
    assert name(function("# Where code stands does not matter.\n" + SOURCE)) == usual
    others = [
        name(function(inner=2.5)),
        name(function(scale=5.5)),
        name(function(SOURCE.replace("factor = 3.0", "factor = 3.5"))),
        name(function(SOURCE.replace("x**3", "x**4"))),
        name(function(SOURCE.replace("helper(x).sum()", "helper(x).mean()"))),
    ]
    with monkeypatch.context() as patched:
        patched.setattr(torch, "__version__", "2.99")
        others.append(name(function()))
    with monkeypatch.context() as patched:
        patched.setattr(torch, "get_num_threads", functools.partial(int, 77))
        others.append(name(function()))
    assert None not in others
    assert len({usual, *others}) == len(others) + 1
    assert name(function()) == usual


@pytest.mark.parametrize(
    "held",
    [object(), iter([1.0]), torch.Generator(), {"a", "b"}, types.ModuleType("a_users_module"), [[[[]]] * 1001]],
    ids=lambda held: type(held).__name__,
)
def test_a_function_whose_dependences_cannot_be_compared_is_not_saved(folder: Path, held: Any) -> None:
    assert name(lambda x: (x.sum(), held)) is None


READING: list[Any] = [
    lambda x: x.sum() * float(os.environ["A_FACTOR"]),
    lambda x: x.sum() * float(os.getenv("A_FACTOR", "1")),
    lambda x: x.sum() * float(open("factor").read()),  # noqa: SIM115  # it never runs
    lambda x: x.sum() * globals()["factor"],
    lambda x: x.sum() * importlib.import_module("a_users_module").factor,
    lambda x: x.sum() * __import__("a_users_module").factor,
    lambda x: x.sum() * getattr(programs, "FACTOR".lower()),
]


@pytest.mark.parametrize("index", range(len(READING)))
def test_a_function_that_reads_what_no_walk_finds_is_not_saved(folder: Path, index: int) -> None:
    assert name(lambda x: x.sum()) is not None
    assert name(READING[index]) is None


def test_modules_that_a_function_imports_are_in_the_name_of_its_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        from a_users_settings import factor  # type: ignore[import-not-found]  # made below

        return factor * x.sum()

    assert name(func) is None  # not imported yet
    module: Any = types.ModuleType("a_users_settings")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = []
    for module.factor in (2.0, 3.0):
        names.append(name(func))
    assert None not in names
    assert names[0] != names[1]


def test_what_is_set_on_modules_of_libraries_is_in_the_name_of_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, held = sys, [sys]

    def func(x: torch.Tensor) -> torch.Tensor:
        import torch.nn.functional

        factor: float = inner.a_users_factor + getattr(torch.backends, "a_users_factor", 0.0)  # type: ignore[attr-defined]  # set below
        return factor * torch.nn.functional.relu(x).sum() + json.a_users_helper(x)  # type: ignore[attr-defined]  # set below

    names = [name(func)]
    for holder, key, value in (
        (sys, "factor", 2.0),
        (sys, "factor", 3.0),
        (torch.backends, "factor", 4.0),
        (json, "helper", lambda x: x.sum()),
        (json, "helper", lambda x: x.mean()),
    ):
        monkeypatch.setattr(holder, f"a_users_{key}", value, raising=False)
        names.append(name(func))
    assert None not in names
    assert len(set(names)) == len(names)
    # Of a module that is handed on, nobody knows what is read.
    assert name(lambda x: x.sum() * held[0].a_users_factor) is None


def test_attributes_of_tensors_and_of_metaclasses_are_in_the_name_of_the_file(folder: Path) -> None:
    class Meta(type):
        factor = 2.0

    class Scale(metaclass=Meta):
        pass

    tensor: Any = torch.ones(2)
    names = []
    for Meta.factor, tensor.factor in ((2.0, 3.0), (4.0, 3.0), (4.0, 5.0)):
        names.append(name(lambda x: x.sum() * Scale.factor * tensor.factor))
    assert None not in names
    assert len(set(names)) == 3
    tensor.factor = [5.0]
    assert name(lambda x: x.sum() * tensor.factor[0]) is None


@pytest.mark.parametrize(
    ("holder", "attribute"),
    [(torch, "clamp"), (torch.nn.functional, "gelu"), (torch.Tensor, "tanh"), (torch.nn.ReLU, "forward")],
)
def test_nothing_is_saved_while_a_function_of_pytorch_is_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch, holder: Any, attribute: str
) -> None:
    assert name(function()) is not None
    monkeypatch.setattr(holder, attribute, lambda *arguments: arguments[0])
    assert name(function()) is None
    # What an installed package puts there is known by its version, as transformers' in each module.
    monkeypatch.setattr(holder, attribute, hypothesis.given)
    assert name(function()) is not None


def test_an_empty_variable_turns_saving_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(saved_files.VARIABLE, "")
    assert name(function()) is None
    assert hesse.clear_saved_programs() == 0


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_what_runs_with_a_collection_of_garbage_is_no_dependence(folder: Path) -> None:
    def tell(phase: str, info: dict[str, int]) -> None:
        phases.append(phase)

    def collecting(x: torch.Tensor) -> torch.Tensor:
        gc.collect()
        return (x**3).sum()

    phases: list[str] = []
    gc.callbacks.append(tell)
    try:
        operator(collecting)
    finally:
        gc.callbacks.remove(tell)
    assert phases
    assert list(folder.iterdir())


def test_the_program_of_a_loss_depends_on_values_and_not_on_addresses(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    origin_of = saved.origin_of

    def noted(*arguments: Any) -> None:
        origin = origin_of(*arguments)
        assert origin is not None
        names.append(origin.name)
        raise hesse.CaptureError("it was named")

    monkeypatch.setattr(saved, "origin_of", noted)

    def named(slope: float = 0.1, bias: bool = True, **options: Any) -> str:
        model = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=bias), torch.nn.LeakyReLU(slope))
        data = [(torch.randn(4, 2), torch.randint(3, (4,)))]
        loss = torch.nn.CrossEntropyLoss(**options)
        with pytest.raises(hesse.CaptureError, match="it was named"):
            hesse.LossHessian(model, loss, data, engine="compiled").to_dense()
        return names[-1]

    assert named() == named()
    assert len({named(), named(0.2), named(bias=False), named(label_smoothing=0.1)}) == 4


def test_what_a_loss_returns_beside_its_gradient_is_text() -> None:
    aux = torch.ones(()), Counted((4, 3), torch.zeros(4))
    slots = saved._Slot(0), Counted((4, 3), saved._Slot(1))
    structure = json.loads(json.dumps(saved._structure(slots)))
    found = saved._rebuilt(structure, [aux[0], aux[1].target])
    assert found == aux
    assert type(found[1]) is Counted
