"""Gauss-Newton steps for a small language model, beside Adam: one damped solve a batch, and the loss on other text.

python examples/gauss_newton.py [PICTURE]

Each step solves (G + λI)·s = −g with the Gauss-Newton matrix G of a batch, by conjugate gradients that begin at the
last step. The damping λ follows how well the quadratic model predicts the loss (Martens, "Deep learning via
Hessian-free optimization", ICML 2010). The model and its text are those of language_model.py.
"""

import sys
import time

import torch

import hesse
from language_model import Model, sequences

LOSS = torch.nn.CrossEntropyLoss()
LEARNING_RATE = 3e-3
DAMPING = 1.0


def batches(x, y, steps, rows):
    """So many batches of so many windows, drawn anew at each step."""
    draw = torch.Generator().manual_seed(1)
    for _ in range(steps):
        chosen = torch.randint(len(x), (rows,), generator=draw)
        yield x[chosen], y[chosen]


def gauss_newton_steps(model, data):
    """Train by a solve for each batch; yields after each step."""
    parameters, damping, last = dict(model.named_parameters()), DAMPING, None
    for x, y in data:
        G = hesse.GaussNewton(model, LOSS, (x, y))
        g, before = G.flatten(G.gradient), G.value
        step = hesse.solve(G.shift(damping), -g, tol=0.1, x0=last).solution
        predicted = -(g @ step + 0.5 * step @ (G @ step))
        with torch.no_grad():
            move = G.unflatten(step)
            for name, parameter in parameters.items():
                parameter += move[name]
            ratio = float((before - LOSS(model(x), y)) / predicted)
            if ratio < 0:
                for name, parameter in parameters.items():
                    parameter -= move[name]
        damping *= 1.5 if ratio < 0.25 else 1 / 1.5 if ratio > 0.75 else 1.0
        last = 0.9 * step if ratio > 0 else None
        yield


def adam_steps(model, data):
    """Train by Adam; yields after each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for x, y in data:
        optimizer.zero_grad()
        LOSS(model(x), y).backward()
        optimizer.step()
        yield


def curve(train, steps, rows, seconds=float("inf")):
    """Seconds of training and the loss on text that is not trained on, at the start and after each step."""
    x, y, alphabet = sequences()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Model(len(alphabet))
    held_x, held_y, spent, points = x[-200:], y[-200:], 0.0, []
    training = train(model, batches(x[:-200], y[:-200], steps, rows))
    for _ in range(steps + 1):
        with torch.no_grad():
            points.append((spent, LOSS(model(held_x), held_y).item()))
        began = time.perf_counter()
        if spent >= seconds or next(training, "done") == "done":
            break
        spent += time.perf_counter() - began
    return points


def picture(curves, path):
    """The curves by steps and by seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, label in zip(figure.subplots(1, 2, sharey=True), ("steps", "seconds"), strict=True):
        for name, points in curves.items():
            places = range(len(points)) if label == "steps" else [seconds for seconds, _ in points]
            axes.plot(places, [loss for _, loss in points], label=name)
        axes.set(xlabel=label, xscale="symlog")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("loss on other text")
    figure.axes[0].legend()
    figure.savefig(path)


if __name__ == "__main__":
    found = {"Gauss-Newton": curve(gauss_newton_steps, steps=60, rows=64)}
    found["Adam"] = curve(adam_steps, steps=5000, rows=64, seconds=found["Gauss-Newton"][-1][0])
    for name, points in found.items():
        few = ", ".join(f"{points[step][1]:.3f} after {step}" for step in (0, 10, 50) if step < len(points))
        print(f"{name}: loss {few}, {points[-1][1]:.3f} after {len(points) - 1} steps and {points[-1][0]:.0f} s")
    picture(found, sys.argv[1] if len(sys.argv) > 1 else "gauss_newton.png")
