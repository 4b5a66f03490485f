"""A problem file whose data is on several ranks, which each hold a piece of every parameter."""

import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

import hesse
from tests.distributed.shared_products import LOSS, X, Y, mine, network


def problem() -> hesse.Problem:
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    model = network()
    fully_shard(model[0])
    return hesse.Problem(model=fully_shard(model), loss=LOSS, data=mine(X, Y))
