"""Products of one Hessian by 1, 2 and 4 processes, beside hessian-eigenthings' operator for data parallel.

    python -m benchmarks.ranks

Each process takes a part of scikit-learn's digits, of unequal lengths. The table has, for each library and number of
processes, the least time of a product, its reductions and how many numbers they carry in units of n, and its error
against PyTorch's double backward over all data in one process. benchmarks/results/ranks.json gets the figures.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import hesse
from benchmarks import environment, results_file
from benchmarks.views_ranks import ranks

PROCESSES = (1, 2, 4)
TIMES = 10
REPOSITORY = Path(__file__).parents[1]


def network() -> nn.Sequential:
    """8970 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)).double()


def digits() -> tuple[Tensor, Tensor]:
    """1797 images and what they show."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.data) / 16, torch.tensor(found.target)


def reference(v: Tensor) -> Tensor:
    """The product over all data, by PyTorch alone."""
    model, (images, labels) = network(), digits()
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(nn.functional.cross_entropy(model(images), labels), parameters, create_graph=True)
    parts = v.split([parameter.numel() for parameter in parameters])
    vectors = [part.reshape(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]
    return torch.cat([leaf.reshape(-1) for leaf in torch.autograd.grad(gradient, parameters, vectors)])


def own_part() -> tuple[Tensor, Tensor]:
    """This rank's images; the first rank has more than all others together."""
    images, labels = digits()
    rank, ranks = dist.get_rank(), dist.get_world_size()
    ends = [0, *[len(images) * (ranks + place) // (2 * ranks) for place in range(ranks)], len(images)]
    ends = [*ends[:1], *ends[2:]] if ranks > 1 else [0, len(images)]
    return images[ends[rank] : ends[rank + 1]], labels[ends[rank] : ends[rank + 1]]


def of_hesse() -> Callable[[Tensor], Tensor]:
    """Its operator's product."""
    return hesse.LossHessian(DistributedDataParallel(network()), nn.CrossEntropyLoss(), own_part()).__matmul__


def of_hessian_eigenthings() -> Callable[[Tensor], Tensor]:
    """Its operator's product."""
    from hessian_eigenthings.operators.distributed.ddp import DDPHessianOperator

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    product: Callable[[Tensor], Tensor] = DDPHessianOperator(network(), [own_part()], loss).matvec
    return product


LIBRARIES = {"hesse": of_hesse, "hessian-eigenthings": of_hessian_eigenthings}


def measured(make: Callable[[], Callable[[Tensor], Tensor]]) -> dict[str, Any]:
    """Time, reductions and error of a product."""
    v = torch.randn(8970, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    try:
        multiply = make()
    except ImportError as error:
        return {"problem": str(error)}
    sizes: list[int] = []
    reduce = dist.all_reduce

    def counted(tensor: Tensor, *arguments: Any, **words: Any) -> Any:
        sizes.append(tensor.numel())
        return reduce(tensor, *arguments, **words)

    expected = reference(v)
    found = multiply(v)
    dist.all_reduce = counted
    multiply(v)
    dist.all_reduce = reduce
    seconds = []
    for _ in range(TIMES):
        dist.barrier()
        start = time.perf_counter()
        multiply(v)
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": min(seconds),
        "reductions": len(sizes),
        "numbers": sum(sizes) / len(v),
        "error": float((found - expected).norm() / expected.norm()),
    }


def one() -> None:
    """What one of the processes does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {name: measured(make) for name, make in LIBRARIES.items()}
    if dist.get_rank() == 0:
        print(json.dumps(found))
    dist.destroy_process_group()


def run(processes: int) -> dict[str, Any]:
    """The figures of so many processes."""
    command = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=127.0.0.1:0", "-m", "benchmarks.ranks", "--one"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run all, write the results, and print the table."""
    rows = [{"processes": processes, "libraries": run(processes)} for processes in PROCESSES]
    results = {"environment": environment.describe(), "rows": rows}
    results_file.write(results_file.FOLDER / "ranks.json", results)
    print(ranks(results))


if __name__ == "__main__":
    one() if sys.argv[1:] == ["--one"] else main()
