"""The sharpness along training: the largest eigenvalue of the loss's Hessian at each of 200 steps, compiled once,
and each search begun where the last one ended.

Gradient descent on scikit-learn's digits sharpens until the largest eigenvalue hovers at 2 / learning rate, the edge
of stability (Cohen et al., "Gradient descent on neural networks typically occurs at the edge of stability", ICLR 2021).

python examples/sharpness.py
"""

import torch

import hesse
from digits import data, network

LEARNING_RATE = 0.5
STEPS = 200


def sharpness_along_training(steps=STEPS, learning_rate=LEARNING_RATE, tol=1e-3):
    """For each step the loss, the largest eigenvalue and how many products it took; and the last Hessian."""
    images, labels = data()
    torch.manual_seed(0)
    net = network()
    parameters = dict(net.named_parameters())

    def loss(p):
        return torch.nn.functional.cross_entropy(torch.func.functional_call(net, p, images), labels)

    # Compared with the tape where it is compiled; the later points are laid out alike, and are taken on trust.
    H = hesse.Hessian(loss, parameters, engine="compiled", verify=False)
    history, top = [], None
    for step in range(steps):
        if step > 0:
            H = H.at(parameters)
        top = hesse.eigsh(H, k=1, which="LA", tol=tol, rng=0, start=top)
        history.append((H.value.item(), top.values[0].item(), top.num_products))
        with torch.no_grad():
            # The gradient comes with the Hessian.
            for name, gradient in H.gradient.items():
                parameters[name] -= learning_rate * gradient
    return history, H


if __name__ == "__main__":
    history, H = sharpness_along_training()
    print(f"2 / learning rate = {2 / LEARNING_RATE:.2f}\n\nstep    loss  sharpness  products")
    for step, (value, top, products) in enumerate(history):
        if step % 10 == 0 or step == len(history) - 1:
            print(f"{step:4d}  {value:6.3f}  {top:9.3f}  {products:8d}")
    print(f"\n{sum(products for _, _, products in history)} products; {H.explain()}")
