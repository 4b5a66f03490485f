"""Run by a test: Ctrl-C at random instants of what hesse does, after which the process and the model are as before.

Arguments: how many instants of each use, and a seed. Signals come of a thread, as those of a terminal do, also while
PyTorch is inside of C++.
"""

import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

import hesse
from hesse._linearize.program.backends import INDUCTOR
from hesse._linearize.program.runs import run_as_it_is
from tests.linearize import programs
from tests.training.snapshot import differences, settings, snapshot

NETWORK = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3))
LOSS = nn.CrossEntropyLoss()
BATCHES = [(torch.randn(10, 4), torch.randint(3, (10,))) for _ in range(2)]
X = torch.linspace(-1, 1, 30)


def rosenbrock(x: Tensor) -> Tensor:
    return 100 * (x[1:] - x[:-1] ** 2).square().sum() + (1 - x[:-1]).square().sum()


def loss(parameters: dict[str, Tensor]) -> Tensor:
    x, y = BATCHES[0]
    return LOSS(torch.func.functional_call(NETWORK, parameters, (x,)), y)


def loss_hessian(**options: object) -> hesse.LossHessian:
    return hesse.LossHessian(NETWORK, LOSS, BATCHES, **options)


USES: dict[str, Callable[[], object]] = {
    "an operator over data": lambda: loss_hessian(memory="5KB").gradient,
    "counting memory": lambda: str(loss_hessian(memory="20KB").explain()),
    "a captured loss": lambda: loss_hessian(engine="compiled").gradient,
    "a captured function, for many vectors": lambda: hesse.Hessian(rosenbrock, X, engine="compiled") @ torch.eye(30),
    "check": lambda: hesse.check(rosenbrock, X, rng=0),
    "check of a model": lambda: hesse.check(loss, {key: p.detach() for key, p in NETWORK.named_parameters()}, rng=0),
    "sparse_hessian": lambda: hesse.sparse_hessian(rosenbrock, X),
}


def is_interrupted(use: Callable[[], object], delay: float) -> bool:
    """Whether Ctrl-C has arrived, while a use runs or after it."""
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        use()
        timer.join()
        time.sleep(0)
    except KeyboardInterrupt:
        timer.join()
        return True
    return False


def changed(use: Callable[[], object], delay: float) -> tuple[bool, list[str]]:
    """Whether Ctrl-C has arrived, and what is not as it was."""
    before, around, modes = snapshot(vars(NETWORK)), settings(), torch._C._len_torch_dispatch_stack()
    drawn = torch.get_rng_state()
    arrived = is_interrupted(use, delay)
    # An operator that was made draws as one more evaluation does.
    torch.set_rng_state(drawn)
    found = [*differences(before, snapshot(vars(NETWORK))), *differences(around, settings())]
    if torch._C._len_torch_dispatch_stack() != modes:
        found.append("modes of the dispatcher")
    return arrived, found


def main(count: int, seed: int) -> None:
    rng, arrivals = random.Random(seed), 0
    # The whole way to a program but for the compiler, and its passes.
    with programs.running(INDUCTOR._replace(compile=run_as_it_is)):
        for name, use in USES.items():
            use()
            began = time.perf_counter()
            use()
            seconds = time.perf_counter() - began
            trials = [changed(use, rng.random() * seconds) for _ in range(count)]
            arrivals += sum(arrived for arrived, _ in trials)
            found = [entry for _, entries in trials for entry in entries]
            assert not found, f"changed by {name}: {found[:5]}"
    # Python drops one that comes in a callback of its garbage collection.
    assert arrivals
    torch.testing.assert_close(hesse.Hessian(rosenbrock, X) @ X, torch.autograd.functional.hessian(rosenbrock, X) @ X)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # PyTorch's, of what it traces.
    warnings.simplefilter("ignore")
    main(*map(int, sys.argv[1:]))
