"""The largest eigenvalues of the digits network's Hessian, by processes that each have a part of the images.

torchrun --nproc-per-node 2 examples/ranks.py
"""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import hesse
from digits import data, train

if __name__ == "__main__":
    dist.init_process_group()
    rank, ranks = dist.get_rank(), dist.get_world_size()
    images, labels = data()
    model = DistributedDataParallel(train(images, labels))
    H = hesse.LossHessian(model, torch.nn.CrossEntropyLoss(), (images[rank::ranks], labels[rank::ranks]))
    top = hesse.eigsh(H, k=5, rng=0)
    if rank == 0:
        print([round(value, 4) for value in top.values.tolist()])
    dist.destroy_process_group()
