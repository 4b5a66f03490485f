"""The sparse Hessian of one problem by one contestant, in a process that does nothing else.

    python -m benchmarks.sparse_one PROBLEM CONTESTANT

It prints seconds of the first call (detect the pattern, color it, compile, evaluate) and of the next point, the colors,
the stored entries, the peak memory above the imported library's, and two numbers of a product that tell the matrix.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import one_sentence
from benchmarks.memory_one import peak_mib, reset_peak
from benchmarks.processes import limit_memory
from benchmarks.sparse_problems import PROBLEMS, SparseProblem

Matrix = tuple[Any, int]
"""A SciPy matrix and the number of colors."""


Contestant = tuple[Callable[[Any], Any], Callable[[Any], Any], Callable[[Any], Matrix]]
"""How an input is laid out, what makes its matrix, and the matrix for SciPy."""


def hesse(problem: SparseProblem, engine: Any = "auto") -> Contestant:
    """By this library, on PyTorch."""
    import torch

    import hesse

    constants = [torch.from_numpy(array) for array in problem.constants]
    # The function alone: a program is asked at each point whether arrays that its function reaches have changed.
    energy = problem.energy
    state: dict[str, Any] = {}

    def call(x: Any) -> Any:
        earlier = state.get("H")
        if earlier is None:
            state["H"] = hesse.Hessian(lambda x: energy(torch, x, *constants), x, engine=engine)
        else:
            state["H"] = earlier.at(x)
        return state["H"].to_sparse()

    def result(matrix: Any) -> Matrix:
        return hesse.to_scipy(matrix), state["H"].explain().colors

    return torch.from_numpy, call, result


def asdex(problem: SparseProblem) -> Contestant:
    """The same by asdex, on JAX."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import asdex as library
    import scipy.sparse
    from jax import numpy as xp

    constants = [xp.asarray(array) for array in problem.constants]
    state: dict[str, Any] = {}

    def energy(x: Any) -> Any:
        return problem.energy(xp, x.reshape(problem.start.shape), *constants)

    def call(x: Any) -> Any:
        if not state:
            state["coloring"] = library.hessian_coloring(energy, x)
            # Compiled as a whole: its own advice.
            state["hessian"] = jax.jit(library.hessian_from_coloring(energy, state["coloring"]))
        return jax.block_until_ready(state["hessian"](x))

    def result(matrix: Any) -> Matrix:
        rows, columns = np.asarray(matrix.indices).T
        entries = scipy.sparse.coo_array((np.asarray(matrix.data), (rows, columns)), shape=matrix.shape)
        return entries.tocsr(), state["coloring"].num_colors

    # Flat: of an input of several dimensions the matrix has twice as many, whose indices overflow 32 bits.
    return lambda array: xp.asarray(array.ravel()), call, result


CONTESTANTS: dict[str, Callable[[SparseProblem], Contestant]] = {
    "hesse": hesse,
    "hesse compiled": lambda problem: hesse(problem, "compiled"),
    "asdex": asdex,
}


def measure(problem_name: str, contestant: str, quick: bool) -> dict[str, Any]:
    make, size, tiny = PROBLEMS[problem_name]
    try:
        # What a library loads and compiles of its own when it is first used is part of its first call.
        problem = make(tiny if quick else size)
        lay_out, call, result = CONTESTANTS[contestant](problem)
        points = [lay_out(problem.start + shift) for shift in (0.0, 1e-3, 2e-3)]
        reset_peak()
        held = peak_mib()
        seconds = []
        matrix: Any = None
        for x in points:
            del matrix
            began = time.perf_counter()
            matrix = call(x)
            seconds.append(time.perf_counter() - began)
        peak = peak_mib() - held
        found, colors = result(matrix)
        v, w = np.random.default_rng(1).normal(size=(2, found.shape[0]))
        product = found @ v
    except Exception as error:
        return {"problem": one_sentence(error)}
    return {
        "problem": None,
        "first_seconds": seconds[0],
        "again_seconds": min(seconds[1:]),
        "peak_mib": peak,
        "colors": int(colors),
        "entries": int(found.nnz),
        "size": int(found.shape[0]),
        "norm": float(np.linalg.norm(product)),
        "component": float(w @ product),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The sparse Hessian of one problem by one contestant.")
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    arguments = parser.parse_args()
    limit_memory()
    print(json.dumps(measure(arguments.problem, arguments.contestant, arguments.quick)))


if __name__ == "__main__":
    main()
