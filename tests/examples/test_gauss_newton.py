"""Gauss-Newton training of the small language model: the step of the dense matrix, and the loss on other text."""

from __future__ import annotations

import copy
import sys
from types import ModuleType

import pytest
import torch

from .load import FOLDER, example


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield example("gauss_newton")
    sys.modules.pop("language_model", None)


def test_a_step_is_that_of_the_dense_damped_matrix(training):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 5)).double()
    x, y = torch.randn(12, 3, dtype=torch.float64), torch.randint(5, (12,))
    before = copy.deepcopy(model)
    names = list(dict(model.named_parameters()))
    sizes = [parameter.numel() for parameter in model.parameters()]

    def predict(flat):
        parts = zip(names, flat.split(sizes), before.parameters(), strict=True)
        return torch.func.functional_call(before, {name: part.view_as(like) for name, part, like in parts}, x)

    flat = torch.nn.utils.parameters_to_vector(before.parameters()).detach()
    J = torch.autograd.functional.jacobian(predict, flat)
    p = predict(flat).softmax(-1)
    # The Hessian of cross entropy by the logits of a row: diag(p) − p·pᵀ.
    B = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    G = torch.einsum("rim,rij,rjn->mn", J, B, J) / len(x)
    g = torch.einsum("rim,ri->m", J, p - torch.nn.functional.one_hot(y, 5)) / len(x)
    damped = G + training.DAMPING * torch.eye(len(flat), dtype=torch.float64)
    wanted = torch.linalg.solve(damped, -g)
    next(training.gauss_newton_steps(model, [(x, y)]))
    step = torch.nn.utils.parameters_to_vector(model.parameters()).detach() - flat
    # The solve of a step is asked for a tenth of the residual.
    assert float((damped @ step + g).norm()) <= 0.1 * float(g.norm())
    assert float((step - wanted).norm()) <= 0.2 * float(wanted.norm())


def test_three_steps_lower_the_loss_on_other_text_more_than_adams(training):
    ours = [loss for _, loss in training.curve(training.gauss_newton_steps, steps=3, rows=8)]
    adams = [loss for _, loss in training.curve(training.adam_steps, steps=3, rows=8)]
    assert len(ours) == len(adams) == 4
    assert ours[0] == adams[0]
    assert ours == sorted(ours, reverse=True)
    assert ours[-1] < adams[-1] < adams[0]


def test_the_curves_make_a_picture(training, tmp_path):
    training.picture({"one": [(0.0, 4.0), (1.0, 3.0)], "other": [(0.0, 4.0), (0.5, 3.5)]}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
