"""Every call of PyTorch's autograd engine: evaluation, gradients, captured tensors, and the line behind a failure."""
