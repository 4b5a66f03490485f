"""Workloads by name. `build(name)` draws one; the same name gives the same numbers in every dtype."""

import torch

from benchmarks.workloads import cnn, cubic, gpt, lennard_jones, logistic, lstm, mlp, resnet, rosenbrock
from benchmarks.workloads.base import Workload

BUILDERS = {
    "rosenbrock": rosenbrock.build,
    "lennard-jones-pairs": lennard_jones.build_pairs,
    "lennard-jones-all": lennard_jones.build_all,
    "logistic": logistic.build,
    "mlp": mlp.build,
    "digits": mlp.build_digits,
    "cnn": cnn.build,
    "resnet": resnet.build,
    "gpt": gpt.build,
    "gpt-words": gpt.build_many_words,
    "lstm": lstm.build,
    "cubic": cubic.build,
}

# Those of the tables; the others are asked for by name.
NAMES = [name for name in BUILDERS if name != "gpt-words"]


def build(name: str, dtype: torch.dtype = torch.float32, quick: bool = False) -> Workload:
    return BUILDERS[name](dtype, quick)
