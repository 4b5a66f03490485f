"""A problem file whose data is on several ranks."""

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import hesse
from tests.distributed.shared_products import LOSS, X, Y, mine, network


def problem() -> hesse.Problem:
    dist.init_process_group("gloo")
    return hesse.Problem(model=DistributedDataParallel(network()), loss=LOSS, data=mine(X, Y))
