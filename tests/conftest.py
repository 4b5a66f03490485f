"""One thread for all tests, and which rows of a long table run each time.

Two workers share two cores, and sums come out the same on every machine.
"""

import gc
import os
from collections import Counter

import hypothesis  # noqa: F401  # when it is loaded it looks for references, which a frozen object does not show
import pytest
import torch

torch.set_num_threads(1)
# Seeding a device that is not there writes the stack down for later, which takes longer than many a test.
for absent in (torch.cuda, torch.xpu, torch.mtia):
    if not absent.is_available():
        absent.manual_seed_all = lambda seed: None
# Inductor believes the processor, and does not load a library for each kind of vectors, in processes that import torch.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
# Each test captures what it asks for, and none leaves programs in the user's cache.
os.environ["HESSE_CACHE_DIR"] = ""
# What is collected stays: the garbage collector goes through what tests make, not through a million objects more.
gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test marked ``one_in(k)`` each k-th row runs every time, and the others among the exhaustive tests."""
    rows = Counter()
    for item in items:
        mark = item.get_closest_marker("one_in")
        if mark is not None:
            (step,) = mark.args
            name = item.nodeid.partition("[")[0]
            if rows[name] % step:
                item.add_marker(pytest.mark.exhaustive)
            rows[name] += 1


def pytest_collection_finish():
    gc.freeze()
    # Captures make very many objects; at the default thresholds the collector takes 6 % of the time.
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
