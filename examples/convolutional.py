"""A convolutional network on scikit-learn's digits, in batches: the Hessian of its loss over all of them.

python examples/convolutional.py
hesse spectrum examples/convolutional.py --top 10 --bottom 3 --probes 2 --steps 30 --max-products 100
"""

import torch
from sklearn.datasets import load_digits

import hesse


def network():
    """Two convolutions with GroupNorm, which unlike BatchNorm treats each image for itself."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.GroupNorm(2, 8),
        torch.nn.SiLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(8, 16, 3, padding=1),
        torch.nn.GroupNorm(2, 16),
        torch.nn.SiLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 10),
    )


def problem(epochs=10, batch_size=256):
    """The loss over all 1797 images; the last batch is smaller, and counts by its images."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    data = torch.utils.data.TensorDataset(images, torch.tensor(digits.target))
    loader = torch.utils.data.DataLoader(data, batch_size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = network()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(epochs):
            for x, y in loader:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(net(x), y).backward()
                optimizer.step()
    return hesse.Problem(model=net, loss=torch.nn.CrossEntropyLoss(), data=loader)


if __name__ == "__main__":
    digits = problem()
    H = digits.operator()
    print(f"{H.shape[0]} parameters, loss {H.value:.4f}")
    G = hesse.GaussNewton(digits.model, digits.loss, digits.data)
    for name, A in (("Hessian", H), ("Gauss-Newton matrix", G)):
        largest = hesse.eigsh(A, k=1, which="LA", rng=0).values[0]
        print(f"largest eigenvalue of the {name}: {largest:.3f}")
