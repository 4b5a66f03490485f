"""A language model and how it is trained, on one process or several: what examples/sharded.py begins with."""

import torch
import torch.distributed as dist

from language_model import Model, sequences


def new_model():
    """The same on every process."""
    torch.manual_seed(0)
    return Model(len(sequences()[2]))


def my_part():
    """This process's part of 32 windows, and of the letters that follow."""
    x, y, _ = sequences()
    return x[dist.get_rank() : 32 : dist.get_world_size()], y[dist.get_rank() : 32 : dist.get_world_size()]


def train(model, loss, data, steps):
    """Gradient descent."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(data[0]), data[1]).backward()
        optimizer.step()
