"""The sharpness of a language model whose parameters are cut up among processes by FSDP2, while it trains.

torchrun --nproc-per-node 2 examples/sharded.py
"""

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

import hesse
from language_model import Model, sequences

if __name__ == "__main__":
    dist.init_process_group()
    x, y, alphabet = sequences()
    mine = x[dist.get_rank() : 32 : dist.get_world_size()], y[dist.get_rank() : 32 : dist.get_world_size()]
    torch.manual_seed(0)
    model, loss = Model(len(alphabet)), torch.nn.CrossEntropyLoss()
    for layer in model.layers.layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(10):
        optimizer.zero_grad()
        loss(model(mine[0]), mine[1]).backward()
        optimizer.step()
    H = hesse.LossHessian(model, loss, mine)
    top = hesse.eigsh(H, k=1, which="LA", rng=0, tol=1e-3)
    if dist.get_rank() == 0:
        print([round(value, 4) for value in top.values.tolist()])
    dist.destroy_process_group()
