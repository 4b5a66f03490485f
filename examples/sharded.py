"""The sharpness of a language model whose parameters are cut up among processes by FSDP2, while it trains.

torchrun --nproc-per-node 2 examples/sharded.py
"""

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

import hesse
from training import my_part, new_model, train

if __name__ == "__main__":
    dist.init_process_group()
    model, loss, data = new_model(), torch.nn.CrossEntropyLoss(), my_part()
    for layer in model.layers.layers:
        fully_shard(layer)
    fully_shard(model)
    train(model, loss, data, steps=10)
    H = hesse.LossHessian(model, loss, data)
    top = hesse.eigsh(H, k=1, which="LA", rng=0, tol=1e-3)
    if dist.get_rank() == 0:
        print([round(value, 4) for value in top.values.tolist()])
    dist.destroy_process_group()
