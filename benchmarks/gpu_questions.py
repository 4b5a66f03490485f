"""Checks of questions, overheads, engines, precision and checkpoints on a GPU."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hesse
from benchmarks.gpu_layers import Attention
from benchmarks.gpu_machine import Facts, Machine, check, far, numbers, of_parameters
from benchmarks.workloads import gpt


def _questions(machine: Machine) -> Facts:
    square = numbers(60, 60)
    A = (square + square.mT).to(machine.device)
    x, b = numbers(60, seed=1).to(machine.device), torch.ones(60, device=machine.device)
    H = hesse.Hessian(lambda x: (x @ A @ x) / 2 + (x**4).sum(), x, engine="tape")
    P = H.shift(1000.0)
    asked: dict[str, Callable[[], object]] = {
        "eigsh": lambda: hesse.eigsh(H, 2, rng=0),
        "trace": lambda: hesse.trace(H, rng=0),
        "diagonal": lambda: hesse.diagonal(H, rng=0),
        "frobenius_norm": lambda: hesse.frobenius_norm(H, rng=0),
        "spectral_density": lambda: hesse.spectral_density(H, rng=0),
        "trace_of": lambda: hesse.trace_of(torch.tanh, H, rng=0),
        "logdet": lambda: hesse.logdet(P, rng=0),
        "cg": lambda: hesse.solve(P, b, method="cg"),
        "minres": lambda: hesse.solve(H, b),
        "solve_shifted": lambda: hesse.solve_shifted(P, b, [1.0, 2.0]),
        "nystrom": lambda: hesse.solve(P, b, preconditioner=hesse.nystrom(P, 5, rng=0)),
    }
    failed = {}
    for name, ask in asked.items():
        try:
            ask()
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {str(error)[:100]}"
    return {"failed": failed}


check("questions", 20)(_questions)


@check("questions, the device the default one", 20)
def _questions_by_default(machine: Machine) -> Facts:
    torch.set_default_device(machine.device)
    try:
        return _questions(machine)
    finally:
        torch.set_default_device(None)


def _language(machine: Machine) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A GPT of 1.2e8 parameters and a batch of 2048 words."""
    layers, width, length, rows = (1, 8, 4, 2) if machine.dry else (12, 768, 512, 4)
    torch.manual_seed(0)
    model = gpt.GPT(layers, width, length)
    if not machine.dry:
        model.tokens, model.head = nn.Embedding(50_257, width), nn.Linear(width, 50_257)
    words = numbers(rows, length + 1, seed=2).abs().mul(50).long().clamp(max=255).to(machine.device)
    return model.to(machine.device), (words[:, :-1].contiguous(), words[:, 1:].flatten())


def _double_backward(loss: Tensor, parameters: list[nn.Parameter]) -> Callable[[], object]:
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    vectors = [torch.ones_like(parameter) for parameter in parameters]
    return lambda: torch.autograd.grad(gradients, parameters, vectors, retain_graph=True)


@check("a language model: what a product costs beside the bare double backward", 90)
def _overheads(machine: Machine) -> Facts:
    model, batch = _language(machine)
    parameters = list(model.parameters())
    loss = nn.CrossEntropyLoss()
    gradient = machine.milliseconds(lambda: torch.autograd.grad(loss(model(batch[0]), batch[1]), parameters))
    bare = machine.milliseconds(_double_backward(loss(model(batch[0]), batch[1]), parameters))
    H = hesse.LossHessian(model, loss, batch, engine="tape")
    v = torch.ones(H.shape[1], device=machine.device)
    facts: Facts = {"n": len(v), "gradient, ms": gradient, "bare, ms": bare}
    facts["H @ v, ms"] = machine.milliseconds(lambda: H @ v)
    facts["peak of H @ v, vectors"] = (taken := machine.peak(lambda: H @ v)) and round(taken / 4 / len(v), 2)
    asked: dict[str, Callable[[], object]] = {
        "eigsh": lambda: hesse.eigsh(H, 1, rng=0, max_products=20),
        "trace": lambda: hesse.trace(H, rng=0, max_products=8, method="hutchinson"),
        "solve": lambda: hesse.solve(H, v, max_products=10),
    }
    for name, ask in asked.items():
        began = time.perf_counter()
        taken = machine.peak(ask)
        machine.wait()
        vectors_taken = None if taken is None else round(taken / 4 / len(v), 1)
        facts[name] = {"seconds": round(time.perf_counter() - began, 2), "peak, vectors": vectors_taken}
    return facts


@check("host synchronizations of a product")
def _synchronizations(machine: Machine) -> Facts:
    model, batch = _language(machine)
    H = hesse.LossHessian(model, nn.CrossEntropyLoss(), batch, engine="tape")
    v = torch.ones(H.shape[1], device=machine.device)
    H @ v
    if machine.dry:
        return {"synchronizations": None}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            H @ v
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"synchronizations": len(told)}


def _engines(machine: Machine, func: Callable[..., Tensor], x: Any) -> Facts:
    tape, program = [hesse.Hessian(func, x, engine=engine) for engine in ("tape", "compiled")]
    v = torch.ones(tape.shape[1], device=machine.device)
    return {
        "far": far(program @ v, tape @ v),
        "tape, ms": machine.milliseconds(lambda: tape @ v),
        "compiled, ms": machine.milliseconds(lambda: program @ v),
    }


@check("Rosenbrock, compiled", 60)
def _rosenbrock(machine: Machine) -> Facts:
    x = torch.rand(10 ** (3 if machine.dry else 7), device=machine.device)
    return _engines(machine, lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum(), x)


@check("attention, compiled", 60)
def _compiled_attention(machine: Machine) -> Facts:
    x = numbers(2, 33, 64).to(machine.device)
    func, parameters = of_parameters(Attention(True).to(machine.device), lambda model: model(x).square().mean())
    with machine.attending_by("EFFICIENT_ATTENTION"):
        return _engines(machine, func, parameters)


@check("convolutions with TF32", 20)
def _tf32(machine: Machine) -> Facts:
    x = numbers(16, 3, 12, 12).to(machine.device)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(800, 5)).to(machine.device)
    facts = {}
    for allowed in (False, True):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
            data = (x, model(x).detach() + 1)
            H = hesse.LossHessian(model, lambda p, y: (p - y).square().mean(), data, engine="tape")
            found = hesse.eigsh(H, 2, rng=0, max_products=200)
        facts[f"TF32 {allowed}"] = {"values": found.values.tolist(), "converged": found.converged}
    return facts


@check("a checkpoint resumed where additions are atomic", 15)
def _resumed(machine: Machine) -> Facts:
    model = nn.Sequential(nn.Embedding(30, 16), nn.Flatten(), nn.Linear(64, 4)).to(machine.device)
    words = numbers(4096, 4).abs().mul(9).long().clamp(max=29).to(machine.device)
    H = hesse.LossHessian(model, nn.CrossEntropyLoss(), (words, words[:, 0] % 4), engine="tape")
    with tempfile.TemporaryDirectory() as folder:
        kept = hesse.Checkpoint(Path(folder) / "kept", seconds=0)
        hesse.eigsh(H, 2, rng=0, checkpoint=kept, callback=lambda progress: progress.num_products > 6)
        return {"converged": hesse.eigsh(H, 2, rng=0, checkpoint=kept).converged}


@check("a side stream")
def _side_stream(machine: Machine) -> Facts:
    H = hesse.Hessian(lambda x: (x**4).sum(), torch.rand(1000, device=machine.device), engine="tape")
    v = torch.ones(1000, device=machine.device)
    expected = H @ v
    if machine.dry:
        return {"far": far(H @ v, expected)}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = H @ v
    stream.synchronize()
    return {"far": far(found, expected)}
