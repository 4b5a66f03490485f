"""PyTorch's own database of operators: a product through each of them."""
