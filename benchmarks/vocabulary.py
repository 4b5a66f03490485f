"""A product through a linear layer with cross entropy over a large vocabulary: seconds, and peak memory of a process.

``python -m benchmarks.vocabulary`` measures PyTorch's ``vhp`` of the plain loss, and hesse's of the plain and of the
chunked one, each in a process of its own, at 2048 tokens, width 256 and 50,000 words, and writes
benchmarks/results/vocabulary.json.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import hesse
from benchmarks import environment, results_file, table

TOKENS, WIDTH, WORDS = 2048, 256, 50_000
CONTESTANTS = {
    "torch": (torch.autograd.functional.vhp, None),
    "hesse": (hesse.vhp, None),
    "hesse, chunked": (hesse.vhp, "auto"),
}
REPEATS = 3


def measure(contestant: str) -> dict[str, float]:
    """Seconds of the fastest product, peak MiB before and with it, and a number that all agree upon."""
    product, chunking = CONTESTANTS[contestant]
    options = None if chunking is None else torch.nn.LinearCrossEntropyOptions(chunking_method=chunking)
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn((2, TOKENS, WIDTH), generator=generator)
    weight, w = torch.randn((2, WORDS, WIDTH), generator=generator) / WIDTH**0.5
    target = torch.randint(WORDS, (TOKENS,), generator=generator)

    def loss(x: Tensor, weight: Tensor) -> Tensor:
        return F.linear_cross_entropy(x, weight, target, options=options)

    before = peak()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        _, products = product(loss, (x, weight), (v, w))
        seconds.append(time.perf_counter() - start)
    along = sum(float((entry * direction).sum()) for entry, direction in zip(products, (v, w), strict=True))
    return {"seconds": min(seconds), "before": before, "peak": peak(), "vHv": along}


def peak() -> float:
    """The most memory this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    results: dict[str, Any] = {"environment": environment.describe(), "contestants": {}}
    for contestant in CONTESTANTS:
        command = [sys.executable, "-m", "benchmarks.vocabulary", contestant]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        results["contestants"][contestant] = found
    results_file.write(results_file.FOLDER / "vocabulary.json", results)
    print(table.render(results, "vocabulary"))


if __name__ == "__main__":
    main()
