"""What Inductor compiles as text: the Python code around its kernels, and where the kernels are on the disk.

It runs without the compiler, which takes seconds to load.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hesse._linearize.program.runs import Run

_OWN_OPERATORS = ("passes.scatter_adds", "passes.reductions", "passes.matrix_products", "recurrence")
_PREFIX = "hesse_"
_ADDRESS = "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"
"""The variable of the environment by which a kernel that is loaded finds PyTorch's function for a tensor's memory."""


class Kernel(NamedTuple):
    """A kernel's name in the code, its file, the digest of the file, and the name of its module there."""

    name: str
    file: str
    digest: str
    module: str


class Wrapper(NamedTuple):
    """A half that Inductor compiled.

    Attributes:
        code: defines the function ``call``, which is the half.
        externs: functions of torch that the code finds in ``extern_kernels``.
        kernels: those that it calls.
    """

    code: str
    externs: list[str]
    kernels: list[Kernel]

    @staticmethod
    def of(run: Run) -> Wrapper | None:
        """A compiled half as text; None where it needs more than its kernels and PyTorch's operators."""
        function = getattr(run, "__func__", run)
        variables = getattr(function, "__globals__", {})
        file = variables.get("__file__")
        if not isinstance(file, str) or not isinstance(run, types.MethodType):
            return None
        tree = _without_compiler(ast.parse(Path(file).read_text()))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        kernels = []
        for name in sorted(names):
            owner = getattr(variables.get(name), "__self__", None)
            if isinstance(owner, types.ModuleType) and owner.__name__.startswith(_PREFIX):
                path = str(inspect.getfile(owner))
                kernels.append(Kernel(name, path, digest_of(path), owner.__name__.rpartition(".")[2]))
        externs = sorted(
            {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "extern_kernels"
            }
        )
        given = variables.get("extern_kernels")
        if any(getattr(given, name, None) is not getattr(torch, name, 0) for name in externs):
            return None
        known = {kernel.name for kernel in kernels} | {"extern_kernels"} | vars(builtins).keys() | _defined(tree)
        if names - known or any(isinstance(node, ast.Global) for node in ast.walk(tree)) or _is_filled_in(tree):
            return None
        return Wrapper(ast.unparse(tree), externs, kernels)

    def loaded(self) -> Run:
        """The half, ready to run.

        Raises:
            OSError: a kernel is not on the disk any more, or another.
        """
        if "torch.ops.hesse" in self.code:
            for name in _OWN_OPERATORS:
                importlib.import_module(f"hesse._linearize.program.{name}")
        namespace: dict[str, Any] = {kernel.name: load_kernel(kernel) for kernel in self.kernels}
        namespace["extern_kernels"] = types.SimpleNamespace(**{name: getattr(torch, name) for name in self.externs})
        exec(compile(self.code, "<a saved program of hesse>", "exec"), namespace)
        call: Run = namespace["call"]
        return call


def _without_compiler(tree: ast.Module) -> ast.Module:
    """The code without what compiles, measures or imports the compiler."""
    kept: list[ast.stmt] = []
    for node in tree.body:
        names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch._inductor"):
            continue
        if isinstance(node, ast.If | ast.Delete) or "async_compile" in names or "AsyncCompile" in names:
            continue
        if isinstance(node, ast.FunctionDef) and node.name in ("get_args", "benchmark_compiled_module"):
            continue
        kept.append(node)
    return ast.Module(kept, [])


def _is_filled_in(tree: ast.Module) -> bool:
    """Whether the compiler gives the code constants after it was loaded."""
    values = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    return any(isinstance(value, ast.Constant) and value.value is None for value in values)


def _defined(tree: ast.Module) -> set[str]:
    """All names that the code defines somewhere."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return names


def digest_of(file: str) -> str:
    """A digest of a file of kernels."""
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=20).hexdigest()


def load_kernel(kernel: Kernel) -> Any:
    """The kernel as a function.

    Raises:
        OSError: its file is not on the disk any more, or another.
    """
    if digest_of(kernel.file) != kernel.digest:
        raise OSError(f"the kernel {kernel.file} is another")
    name = f"{_PREFIX}{kernel.digest}.{kernel.module}"
    if name not in sys.modules:
        address = torch._C._dynamo.guards._torchinductor_pyobject_tensor_data_ptr  # type: ignore[attr-defined]  # no stub
        os.environ[_ADDRESS] = str(address)
        loader = importlib.machinery.ExtensionFileLoader(name, kernel.file)
        spec = importlib.util.spec_from_file_location(name, kernel.file, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        # Its file calls it otherwise.
        module.__name__ = name
        sys.modules[name] = module
    return sys.modules[name].kernel
