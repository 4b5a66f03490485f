"""The Hessian of a small network's loss, at the parameters it was trained to, on scikit-learn's digits.

python examples/digits.py
hesse vhp examples/digits.py --products 100 --compare
"""

import torch
from sklearn.datasets import load_digits

import hesse


def data():
    """1797 images of 8 × 8 pixels, scaled to [0, 1], and the digits they show."""
    digits = load_digits()
    return torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)


def network():
    """8970 parameters; tanh, so that the loss has second derivatives everywhere."""
    return torch.nn.Sequential(
        torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 10)
    )


def train(images, labels, steps=50):
    """The network after fifty steps of Adam on all images; the same one every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net


def problem(device=None, dtype=None):
    """The training loss as a function of the parameters, at the trained ones."""
    images, labels = data()
    net = train(images, labels).to(device, dtype)
    images, labels = images.to(device, dtype), labels.to(device)

    def loss(parameters):
        return torch.nn.functional.cross_entropy(torch.func.functional_call(net, parameters, images), labels)

    return hesse.Problem(func=loss, inputs={name: p.detach() for name, p in net.named_parameters()})


if __name__ == "__main__":
    digits = problem()
    H = hesse.Hessian(digits.func, digits.inputs)
    g = H.flatten(H.gradient)
    print(f"loss {H.value:.4f}, {H.shape[1]} parameters")
    print(f"curvature along the gradient: {g @ (H @ g) / (g @ g):.4f}")
