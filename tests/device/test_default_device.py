"""Nothing takes its device from ``torch.set_default_device``, nor makes float64 on a device that may not have it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hesse

from .entries import CPU, ENTRIES, Setting, flat

# Few products are enough to tell whether devices agree.
pytestmark = pytest.mark.filterwarnings("ignore::hesse.ConvergenceWarning")

SOURCE = Path(hesse.__file__).parent
FACTORIES = {
    *("arange", "as_tensor", "asarray", "empty", "empty_strided", "eye", "full", "linspace", "logspace", "normal"),
    *("ones", "rand", "randint", "randn", "randperm", "scalar_tensor", "sparse_compressed_tensor"),
    *("sparse_coo_tensor", "sparse_csr_tensor", "tensor", "tril_indices", "triu_indices", "zeros"),
}
# Its float64 is tried, and what the device then raises is caught.
TRIES_FLOAT64 = {"_base/devices.py", "_checking/doubling.py"}


def _calls() -> Iterator[tuple[str, ast.Call, ast.Attribute]]:
    """Every call of an attribute in the source, with where it is."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", node, node.func


def _keyword(call: ast.Call, name: str) -> str:
    return next((ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == name), "")


def test_every_factory_is_given_a_device() -> None:
    silent = [
        place
        for place, call, function in _calls()
        if ast.unparse(function.value) == "torch" and function.attr in FACTORIES and not _keyword(call, "device")
    ]
    assert not silent


def test_every_generator_is_given_a_device() -> None:
    silent = [
        place
        for place, call, function in _calls()
        if ast.unparse(function) == "torch.Generator" and not (call.args or call.keywords)
    ]
    assert not silent


def test_float64_is_made_on_the_cpu() -> None:
    wrong = []
    for place, call, function in _calls():
        if place.split(":")[0] in TRIES_FLOAT64:
            continue
        if function.attr == "double":
            receiver = function.value
            is_on_cpu = isinstance(receiver, ast.Call) and ast.unparse(receiver.func).endswith(".cpu")
        elif _keyword(call, "dtype") == "torch.float64":
            is_on_cpu = _keyword(call, "device") in ("'cpu'", '"cpu"')
        elif function.attr == "to" and "torch.float64" in [ast.unparse(argument) for argument in call.args]:
            is_on_cpu = False
        else:
            continue
        if not is_on_cpu:
            wrong.append(place)
    assert not wrong


def test_every_public_entry_is_among_the_entries() -> None:
    words = {name.split()[0] for name in ENTRIES}
    public = {name for name in hesse.__all__ if callable(getattr(hesse, name))}
    public |= {f"functional.{name}" for name in hesse.functional.__all__ if name not in ("vhp", "hvp")}
    public |= {"func.grad", "func.value_and_grad", "func.hvp", "func.vhp"}
    # Results, errors and what is given to an entry; a plot is of numbers on the CPU.
    values = {name for name in public if "." not in name and isinstance(getattr(hesse, name), type)}
    entries = {name for name in values if issubclass(getattr(hesse, name), hesse.Operator)}
    used = {"jacobi", "nystrom", "plot", "Problem", "keep_memory", "clear_saved_programs", "Factorization"}
    missing = (public - values | entries) - words - used - {"Operator"}
    assert not missing


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.one_in(5)
def test_the_default_device_decides_nothing(name: str) -> None:
    expected = flat(ENTRIES[name](Setting(CPU)))
    torch.set_default_device("meta")
    try:
        found = flat(ENTRIES[name](Setting(CPU)))
    finally:
        torch.set_default_device(None)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def _over(loader: Any) -> hesse.LossHessian:
    return hesse.LossHessian(Setting(CPU).net, nn.CrossEntropyLoss(), loader, engine="tape")


def test_a_data_loader_that_cannot_draw_on_the_default_device_is_told_so() -> None:
    batch = Setting(CPU).data[0]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batch), 4)
    torch.set_default_device("meta")
    try:
        with pytest.raises(RuntimeError, match=r"The DataLoader given to LossHessian draws no batch while the default"):
            _over(loader)
    finally:
        torch.set_default_device(None)
    assert _over(loader).shape[0] == Setting(CPU).size


def test_an_error_of_a_dataset_stays_its_own() -> None:
    class Broken(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            raise RuntimeError("no such file")

    torch.set_default_device("meta")
    try:
        with pytest.raises(RuntimeError, match=r"^no such file$"):
            _over(OverOwnIndices(Broken()))
    finally:
        torch.set_default_device(None)


class OverOwnIndices(torch.utils.data.DataLoader[Any]):
    """A loader that needs no number of PyTorch's."""

    def __iter__(self) -> Any:
        return iter(self.dataset)
