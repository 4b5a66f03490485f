"""``engine="compiled"`` over data: one program for all batches of a layout, right for each, kept or evaluated anew."""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesse
from tests.data import references
from tests.data.models import CLASSES, EVEN, REAL, Tied, X, generator, inputs, loader, mlp, seeded
from tests.data.test_gauss_newton import jtlj
from tests.functional.test_compiled_functions import HAS_COMPILER

pytestmark = pytest.mark.usefixtures("uncompiled")

ONES = torch.ones(27, dtype=torch.float64)


def per_row(model: nn.Module) -> Tensor:
    """c·Σ g·gᵀ for cross entropy of the ten rows."""
    G = references.jacobian(model, lambda call: F.cross_entropy(call(X), CLASSES, reduction="none"))
    return G.T @ G / 10


def of_hessian(model: nn.Module) -> Tensor:
    return references.hessian(model, lambda call: F.cross_entropy(call(X), CLASSES))


def of_gauss_newton(model: nn.Module) -> Tensor:
    return jtlj(model, lambda call: call(X), lambda f: F.cross_entropy(f, CLASSES))


# Of cross entropy the Fisher matrix is the Gauss-Newton one.
MATRICES: dict[type, Callable[[nn.Module], Tensor]] = {
    hesse.LossHessian: of_hessian,
    hesse.GaussNewton: of_gauss_newton,
    hesse.Fisher: of_gauss_newton,
    hesse.EmpiricalFisher: per_row,
}
# One program for batches of four rows and one for the ragged two; of a loss by its prediction as many again.
PROGRAMS = {hesse.LossHessian: 2, hesse.GaussNewton: 4, hesse.Fisher: 2, hesse.EmpiricalFisher: 2}


def assert_equal(H: hesse.Operator, expected: Tensor) -> None:
    torch.testing.assert_close(H.to_dense(), expected, rtol=1e-10, atol=1e-13)


class Counting(nn.Module):
    """A model that notes how many rows it sees."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        CALLS.append(len(x))
        return self.model(x)


# A list would be a value that the model reads, and a new program for each of its values.
CALLS: collections.deque[int] = collections.deque()


# Whole batches fit, but not all of them stay; and what only parts of batches fit into.
TIGHT = "2200B"
TOO_TIGHT = {
    hesse.LossHessian: "1200B",
    hesse.GaussNewton: "700B",
    hesse.Fisher: "1200B",
    hesse.EmpiricalFisher: "900B",
}


@pytest.mark.parametrize("room", ["kept", "recomputed", "cut"])
@pytest.mark.parametrize("operator", MATRICES)
@pytest.mark.one_in(13)
def test_every_operator_is_that_of_one_large_batch_now_and_at_later_points(operator: type, room: str) -> None:
    memory = {"kept": None, "recomputed": TIGHT, "cut": TOO_TIGHT[operator]}[room]
    model = mlp()
    H = operator(model, F.cross_entropy, loader(X, CLASSES), engine="compiled", memory=memory)
    assert_equal(H, MATRICES[operator](model))
    value = F.cross_entropy(model(X), CLASSES)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(model.parameters()))])
    torch.testing.assert_close(H.value, value.detach())
    torch.testing.assert_close(H.flatten(H.gradient), gradient)
    programs = H.explain().programs
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    moved = H.at()
    assert_equal(moved, MATRICES[operator](model))
    explained = moved.explain()
    assert (explained.engine, explained.programs) == ("compiled", programs)
    if room != "cut":
        assert programs == PROGRAMS[operator]
    assert (explained.kept == explained.microbatches) == (memory is None)
    assert (explained.rows is not None) == (room == "cut")


@pytest.mark.exhaustive
def test_a_program_is_compared_with_the_tape_once_a_layout_and_point() -> None:
    model = Counting(mlp())
    H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES), engine="compiled")
    CALLS.clear()
    H @ ONES
    # Of each layout the first batch is evaluated by the tape; the second one of four rows is not. What the model counts
    # on stand-ins is put back.
    assert list(CALLS) == [4, 2]
    CALLS.clear()
    H.at() @ ONES
    assert list(CALLS) == [4, 2]


def test_without_verification_only_new_programs_are_compared() -> None:
    model = Counting(mlp())
    H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES), engine="compiled", verify=False)
    H @ ONES
    with torch.no_grad():
        model.model[0].weight.mul_(2)
    CALLS.clear()
    moved = H.at()
    assert_equal(moved, of_hessian(model.model))
    torch.testing.assert_close(moved.value, F.cross_entropy(model.model(X), CLASSES).detach())
    assert not CALLS


@pytest.mark.parametrize("operator", MATRICES)
@pytest.mark.one_in(4)
def test_batches_that_do_not_stay_are_made_anew_by_the_program_alone(operator: type) -> None:
    model = Counting(mlp())
    H = operator(
        model,
        F.cross_entropy,
        loader(X, CLASSES),
        engine="compiled",
        memory="2200B" if operator is hesse.LossHessian else "1900B",
    )
    first = H @ ONES
    CALLS.clear()
    torch.testing.assert_close(H @ ONES, first, rtol=1e-12, atol=0)
    assert not CALLS
    assert H.explain().kept < 3


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 2)
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(F.silu(self.norm(self.first(x)))).flatten(1))


@pytest.mark.parametrize("operator", [hesse.LossHessian, hesse.GaussNewton])
@pytest.mark.exhaustive
def test_a_convolutional_network_with_batch_norm_in_evaluation(operator: type) -> None:
    model = seeded(Convolutional)
    x, labels = inputs(10, 1, 5, 5), CLASSES
    model(x)  # averages that are not those of the beginning
    model.eval()
    state = copy.deepcopy(model.state_dict())
    H = operator(model, nn.CrossEntropyLoss(), loader(x, labels, batch_size=EVEN), engine="compiled")
    if operator is hesse.LossHessian:
        expected = references.hessian(model, lambda call: F.cross_entropy(call(x), labels))
    else:
        expected = jtlj(model, lambda call: call(x), lambda f: F.cross_entropy(f, labels))
    v = inputs(len(expected))
    torch.testing.assert_close(H @ v, expected @ v)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


def masked(rows: int, seed: int) -> dict[str, Tensor]:
    batch = {
        key: torch.randint(5, (rows, 4), generator=generator(seed + place)) for place, key in enumerate(("x", "y"))
    }
    batch["y"][0, seed:] = -100
    return batch


def dictionary_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]).flatten(0, 1), batch["y"].flatten())


def count_labels(batch: dict[str, Tensor]) -> Tensor:
    return (batch["y"] != -100).sum()


def predicted(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return model(batch["x"]).flatten(0, 1), batch["y"].flatten()


BATCHES = [masked(3, 1), masked(3, 2), masked(2, 3)]


def joined() -> tuple[Tensor, Tensor]:
    return torch.cat([batch["x"] for batch in BATCHES]), torch.cat([batch["y"] for batch in BATCHES]).flatten()


def test_dictionaries_with_masks_and_tied_weights() -> None:
    model, (x, y) = seeded(Tied), joined()
    H = hesse.LossHessian(model, dictionary_loss, BATCHES, weight=count_labels, engine="compiled")
    assert_equal(H, references.hessian(model, lambda call: F.cross_entropy(call(x).flatten(0, 1), y)))
    assert H.explain().programs == 2


@pytest.mark.parametrize("operator", [hesse.GaussNewton, hesse.Fisher])
@pytest.mark.one_in(2)
def test_a_target_that_output_makes_is_that_of_each_batch(operator: type) -> None:
    model, (x, y) = seeded(Tied), joined()
    G = operator(model, F.cross_entropy, BATCHES, output=predicted, engine="compiled")
    assert_equal(G, jtlj(model, lambda call: call(x).flatten(0, 1), lambda f: F.cross_entropy(f, y)))


@pytest.mark.exhaustive
def test_what_is_not_chosen_of_the_model_is_read_anew_at_each_point() -> None:
    model = mlp()
    H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES), params="2", engine="compiled", verify=False)
    H @ torch.ones(12, dtype=torch.float64)
    with torch.no_grad():
        model[0].weight.mul_(3)
    moved = H.at()
    expected = references.hessian(model, lambda call: F.cross_entropy(call(X), CLASSES), ["2.weight", "2.bias"])
    assert_equal(moved, expected)
    assert moved.explain().programs == 2


def test_frozen_and_unused_parameters_have_zeros() -> None:
    model = mlp()
    model[0].bias.requires_grad_(False)
    even = loader(X, REAL, batch_size=EVEN)
    matrix = hesse.LossHessian(model, F.mse_loss, even, params="*", engine="compiled").to_dense()
    assert matrix[12:15].abs().max() == matrix[:, 12:15].abs().max() == 0
    names = ["0.weight", "2.weight", "2.bias"]
    expected = references.hessian(model, lambda call: F.mse_loss(call(X), REAL), names)
    others = [i for i in range(27) if not 12 <= i < 15]
    torch.testing.assert_close(matrix[others][:, others], expected)


@pytest.mark.parametrize("memory", [None, TIGHT], ids=["kept", "recomputed"])
@pytest.mark.parametrize("operator", [hesse.LossHessian, hesse.GaussNewton])
@pytest.mark.exhaustive
def test_sixteen_vectors_go_through_a_program_at_once(operator: type, memory: str | None) -> None:
    model = mlp()
    H = operator(model, F.cross_entropy, loader(X, CLASSES), engine="compiled", batching="vmap", memory=memory)
    V = inputs(27, 20)
    torch.testing.assert_close(H @ V, MATRICES[operator](model) @ V)
    assert H.explain().batching == "vmap"


def test_blocks_and_the_data_block() -> None:
    model = mlp()
    even = loader(X, REAL, batch_size=EVEN)
    H, tape = [hesse.LossHessian(model, F.mse_loss, even, engine=name) for name in ("compiled", "tape")]
    dense = references.hessian(model, lambda call: F.mse_loss(call(X), REAL))
    torch.testing.assert_close(H.block("2.weight", "0").to_dense(), dense[15:24, :15])
    M = H.data_block(0)
    torch.testing.assert_close(M.to_dense(), tape.data_block(0).to_dense())
    torch.testing.assert_close(M.T @ ONES, tape.data_block(0).T @ ONES)


def test_plain_functions() -> None:
    weight = inputs(6, 3, seed=5)
    x = inputs(3)

    def residual(x: Tensor) -> dict[str, Tensor]:
        return {"a": (weight @ x).sin(), "b": x**2}

    G = hesse.GaussNewton(residual, x, engine="compiled")
    J = torch.cat([(weight @ x).cos()[:, None] * weight, torch.diag(2 * x)])
    assert_equal(G, J.T @ J)
    x.mul_(2)
    moved = G.at()
    J = torch.cat([(weight @ x).cos()[:, None] * weight, torch.diag(2 * x)])
    assert_equal(moved, J.T @ J)
    assert moved.explain().programs == 2


@pytest.mark.skipif(not HAS_COMPILER, reason="programs are compiled by a C++ compiler")
@pytest.mark.parametrize("operator", [hesse.LossHessian, hesse.GaussNewton])
@pytest.mark.exhaustive
def test_compiled_for_real(operator: type, monkeypatch: pytest.MonkeyPatch) -> None:
    # As the module itself made it, before the fixture took it away.
    monkeypatch.undo()
    model = mlp()
    H = operator(model, F.cross_entropy, loader(X, CLASSES), engine="compiled", memory=TIGHT)
    assert_equal(H, MATRICES[operator](model))
    with torch.no_grad():
        model[2].weight.mul_(1.5)
    moved = H.at()
    assert_equal(moved, MATRICES[operator](model))
    told = str(moved.explain())
    assert f"compiled (as asked for; {PROGRAMS[operator]} programs in " in told


@pytest.mark.exhaustive
def test_many_points_need_no_more_programs() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES), engine="compiled")
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(model(X), CLASSES).backward()
        optimizer.step()
        H = H.at()
        torch.testing.assert_close(H @ ONES, of_hessian(model) @ ONES)
    assert H.explain().programs == 2


@pytest.mark.parametrize("operator", MATRICES)
@pytest.mark.one_in(4)
def test_one_batch_a_step_needs_one_program_a_layout(operator: type) -> None:
    model = Counting(mlp())
    batches = [(X[a:b], CLASSES[a:b]) for a, b in [(0, 4), (4, 8), (8, 10), (1, 5), (3, 7), (0, 4), (2, 4)]]
    H = operator(model, F.cross_entropy, batches[0], engine="compiled")
    H @ ONES
    seen = []
    for x, y in batches[1:]:
        with torch.no_grad():
            model.model[0].weight.mul_(0.9)
        CALLS.clear()
        H = H.at(data=(x, y))
        # The operator of that batch alone, by the tape.
        torch.testing.assert_close(H @ ONES, operator(copy.deepcopy(model.model), F.cross_entropy, (x, y)) @ ONES)
        torch.testing.assert_close(H.value, F.cross_entropy(model.model(x), y).detach())
        seen.append(list(CALLS))
        assert H.explain().reduction == "mean"
    assert H.explain().programs == PROGRAMS[operator]
    # Of four rows the points are number 2, 3, 4 and 5, and of two rows 1 and 2.
    assert [bool(rows) for rows in seen] == [True, True, False, True, False, True]


@pytest.mark.exhaustive
def test_a_batch_at_a_step_has_the_hessian_of_its_own_loss() -> None:
    model = mlp()
    H = hesse.LossHessian(model, F.cross_entropy, (X[:4], CLASSES[:4]), engine="compiled")
    for a, b in [(2, 6), (8, 10), (0, 10)]:
        with torch.no_grad():
            model[2].weight.mul_(1.2)
        H = H.at(data=(X[a:b], CLASSES[a:b]))
        assert_equal(H, references.hessian(model, lambda call, a=a, b=b: F.cross_entropy(call(X[a:b]), CLASSES[a:b])))
    # Over several batches again, and the same ones at the next point.
    H = H.at(data=loader(X, CLASSES))
    assert_equal(H, of_hessian(model))
    assert_equal(H.at(), of_hessian(model))


def test_other_data_is_planned_anew_where_it_may_need_more_memory() -> None:
    model = mlp()
    H = hesse.LossHessian(model, F.cross_entropy, (X[:4], CLASSES[:4]))
    assert H.at(data=(X[4:8], CLASSES[4:8]))._point.plan.number == 4
    assert H.at(data=(X, CLASSES))._point.plan.number == 10
    with pytest.raises(TypeError, match="Batch 0 of the data given to LossHessian should hold tensors"):
        H.at(data=[3])


def test_a_gauss_newton_matrix_of_a_function_has_no_data() -> None:
    G = hesse.GaussNewton(lambda x: x**2, torch.ones(2))
    with pytest.raises(TypeError, match=r"at\(data=\) is for a GaussNewton over data"):
        G.at(data=(X, CLASSES))


def with_a_number(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    return F.mse_loss(model(batch["x"]), batch["y"], reduction="sum") / batch["number"]


def test_numbers_in_a_batch_are_watched() -> None:
    model = mlp()
    parts = [(0, 4), (4, 8), (8, 10)]
    data = [{"x": X[a:b], "y": REAL[a:b], "number": b - a} for a, b in parts]
    H = hesse.LossHessian(
        model, with_a_number, data, reduction="mean", weight=lambda batch: batch["number"], engine="compiled"
    )
    expected = references.hessian(model, lambda call: F.mse_loss(call(X), REAL, reduction="sum") / 10)
    assert_equal(H, expected)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.one_in(2)
def test_lstms_in_single_precision_are_captured_without_onednns_kernel(layers: int) -> None:
    # A property without a deleter, which monkeypatch cannot put back.
    chosen = torch.backends.mkldnn.matmul
    before, chosen.fp32_precision = chosen.fp32_precision, "ieee"
    model = nn.LSTM(3, 4, num_layers=layers).double()
    x, v = [torch.randn(2, 2, 3, dtype=torch.float64) for _ in range(2)]
    expected = torch.autograd.functional.vhp(lambda x: model(x)[0].square().sum(), x, v)[1]
    model.float()
    try:
        H = hesse.Hessian(lambda x: model(x)[0].square().sum(), x.float(), engine="compiled")
        assert torch.backends.mkldnn.enabled
        assert chosen.fp32_precision == "ieee"
    finally:
        chosen.fp32_precision = before
    torch.testing.assert_close(H @ v.float(), expected.float(), rtol=1e-4, atol=1e-5)
