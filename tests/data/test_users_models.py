"""Models as users have them, each against the dense Hessian of the same loss on one large batch, by a loop of
torch.autograd.functional's products, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import hesse
from tests.data import references
from tests.data.models import generator, inputs, loader, seeded

# Hugging Face rounds predictions to float32 before the loss, whatever the model is.
FLOAT32 = 2e-5


def assert_products_agree(
    H: hesse.Operator, model: nn.Module, function: Callable[..., Tensor], precision: float = 1e-10
) -> None:
    """Products with three vectors agree with PyTorch's own of the whole loss."""
    names = references.trainable(model)
    at, point = references.flat_function(model, names, function)
    V = inputs(H.shape[1], 3, seed=9)
    # The reference's attention is in plain operations, which PyTorch can differentiate twice.
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        expected = torch.stack([torch.autograd.functional.vhp(at, point, v)[1] for v in V.unbind(1)], 1)
    assert (H @ V - expected).norm() <= precision * expected.norm()
    assert expected.norm() > 0


def hugging_face(kind: type, config: transformers.PretrainedConfig) -> nn.Module:
    """Attention is the default, PyTorch's fused one."""
    model = seeded(kind, config).eval()
    assert model.config._attn_implementation == "sdpa"
    return model


def tokens(rows: int, length: int, seed: int) -> Tensor:
    return torch.randint(3, 40, (rows, length), generator=generator(seed))


def batches(masked: bool) -> list[transformers.BatchEncoding]:
    """A ragged pair of batches with padding masked, unevenly, or not."""
    made = []
    for seed, rows in enumerate((3, 2)):
        ids = tokens(rows, 7, seed)
        labels, mask = ids.clone(), torch.ones_like(ids)
        if masked:
            labels[0, 4 + seed :] = -100
            mask[0, 4 + seed :] = 0
        made.append(transformers.BatchEncoding({"input_ids": ids, "attention_mask": mask, "labels": labels}))
    return made


def whole(made: list[transformers.BatchEncoding]) -> dict[str, Tensor]:
    return {key: torch.cat([batch[key] for batch in made]) for key in made[0]}


def gpt2() -> nn.Module:
    return hugging_face(
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(
            n_layer=2, n_embd=8, n_head=2, vocab_size=40, n_positions=16, bos_token_id=1, eos_token_id=2
        ),
    )


def llama() -> nn.Module:
    return hugging_face(
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(
            num_hidden_layers=2,
            hidden_size=8,
            intermediate_size=12,
            num_attention_heads=2,
            num_key_value_heads=1,
            vocab_size=40,
            max_position_embeddings=16,
        ),
    )


def bert() -> nn.Module:
    return hugging_face(
        transformers.BertForMaskedLM,
        transformers.BertConfig(
            num_hidden_layers=2,
            hidden_size=8,
            intermediate_size=12,
            num_attention_heads=2,
            vocab_size=40,
            max_position_embeddings=16,
        ),
    )


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("make", [gpt2, llama, bert])
@pytest.mark.one_in(5)
def test_hugging_face_models_with_labels_in_the_batch(
    make: Callable[[], nn.Module], masked: bool, checkpointed: bool
) -> None:
    model: Any = make()
    if checkpointed:
        # Checkpoints are made in training only; dropout is off, so that there is a reference.
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.activation_checkpointing_enable()
        model.train()
        model.config.use_cache = False
    data = batches(masked)
    H = hesse.LossHessian(model, None, data)
    batch = whole(data)
    assert_products_agree(H, model, lambda call: call(**batch).loss, FLOAT32)


def test_a_hugging_face_classifier_and_a_loss_of_ones_own() -> None:
    model = hugging_face(
        transformers.BertForSequenceClassification,
        transformers.BertConfig(
            num_hidden_layers=1,
            hidden_size=8,
            intermediate_size=12,
            num_attention_heads=2,
            vocab_size=40,
            max_position_embeddings=16,
            num_labels=3,
        ),
    )
    data = [
        {"input_ids": tokens(rows, 5, rows), "labels": torch.randint(3, (rows,), generator=generator(rows))}
        for rows in (4, 3)
    ]
    batch = whole(data)
    assert_products_agree(hesse.LossHessian(model, None, data), model, lambda call: call(**batch).loss, FLOAT32)

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(input_ids=batch["input_ids"]).logits, batch["labels"], label_smoothing=0.1)

    def smoothed(call: Callable[..., Any]) -> Tensor:
        return F.cross_entropy(call(input_ids=batch["input_ids"]).logits, batch["labels"], label_smoothing=0.1)

    assert_products_agree(hesse.LossHessian(model, loss, data), model, smoothed)


def test_the_fisher_of_a_language_model_is_its_gauss_newton_matrix() -> None:
    model, data = gpt2(), batches(masked=True)

    def output(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()

    parts = "transformer.h.1.mlp.*"
    fisher = hesse.Fisher(model, F.cross_entropy, data, output=output, params=parts)
    gauss_newton = hesse.GaussNewton(model, F.cross_entropy, data, output=output, params=parts)
    V = inputs(fisher.shape[1], 2)
    torch.testing.assert_close(fisher @ V, gauss_newton @ V)
    torch.testing.assert_close(fisher.value, hesse.LossHessian(model, None, data).value)


class Convolutional(nn.Module):
    """Convolutions, GroupNorm, SiLU, pooling, BatchNorm in evaluation; a block of it checkpointed by choice."""

    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU())
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.AvgPool2d(2))
        self.head = nn.Linear(4, 3)
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = checkpoint(self.block, x, use_reentrant=False) if self.checkpointed else self.block(x)
        return self.head(x.mean((2, 3)))


class Recurrent(nn.Module):
    """A sequence classifier."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.recurrent = kind(3, 4, num_layers=2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_convolutional_network(checkpointed: bool) -> None:
    model = seeded(Convolutional, checkpointed).eval()
    x, y = inputs(7, 1, 6, 6), torch.randint(3, (7,), generator=generator())
    H = hesse.LossHessian(model, F.cross_entropy, loader(x, y))
    assert_products_agree(H, model, lambda call: F.cross_entropy(call(x), y))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_network(kind: type[nn.Module]) -> None:
    model = seeded(Recurrent, kind)
    x, y = inputs(7, 5, 3), torch.randint(3, (7,), generator=generator())
    H = hesse.LossHessian(model, F.cross_entropy, loader(x, y))
    assert_products_agree(H, model, lambda call: F.cross_entropy(call(x), y))


def test_a_recurrent_network_in_float32() -> None:
    model = seeded(Recurrent, nn.LSTM)
    x, y = inputs(7, 5, 3), torch.randint(3, (7,), generator=generator())
    exact = hesse.LossHessian(model, F.cross_entropy, (x, y))
    V = exact.randn(2, 0)
    expected = (exact @ V).float()
    H = hesse.LossHessian(model.float(), F.cross_entropy, loader(x.float(), y))
    torch.testing.assert_close(H @ V.float(), expected, rtol=1e-3, atol=1e-5)


def poisson_residual(u: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """−u″ − π²·sin(πx) at points, whose derivatives by x are taken inside the loss."""
    points = points.detach().requires_grad_()
    values = u(points)
    (slope,) = torch.autograd.grad(values.sum(), points, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), points, create_graph=True)
    return -curvature - torch.pi**2 * torch.sin(torch.pi * points)


@pytest.mark.parametrize("memory", [None, "20KB"], ids=["kept", "cut"])
def test_a_physics_informed_network_has_second_derivatives_inside_its_loss(memory: str | None) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    points = torch.rand(20, 1, generator=generator(), dtype=torch.float64)

    def loss(u: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
        return poisson_residual(u, points).square().mean()

    H = hesse.LossHessian(model, loss, [points[:12], points[12:]], memory=memory)
    assert_products_agree(H, model, lambda call: loss(call, points))
    assert (H.explain().rows is None) == (memory is None)


class Potential(nn.Module):
    """Energy of molecules by a network of all distances between their atoms."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Sequential(nn.Linear(1, 6), nn.SiLU(), nn.Linear(6, 1))

    def forward(self, positions: Tensor) -> Tensor:
        i, j = torch.triu_indices(positions.shape[1], positions.shape[1], offset=1)
        distances = (positions[:, i] - positions[:, j]).norm(dim=-1, keepdim=True)
        return self.pair(distances).sum((1, 2))


def force_loss(model: Callable[[Tensor], Tensor], batch: dict[str, Tensor]) -> Tensor:
    """Squared errors of energies and forces; forces are gradients of the energy, taken inside the loss."""
    positions = batch["positions"].detach().requires_grad_()
    energies = model(positions)
    (gradient,) = torch.autograd.grad(energies.sum(), positions, create_graph=True)
    return F.mse_loss(energies, batch["energies"]) + 10 * F.mse_loss(-gradient, batch["forces"])


def test_an_interatomic_potential_has_forces_inside_its_loss() -> None:
    model = seeded(Potential)
    data = [
        {"positions": inputs(n, 4, 3, seed=n), "energies": inputs(n, seed=1), "forces": inputs(n, 4, 3, seed=2)}
        for n in (5, 2)
    ]
    batch = whole(data)
    assert_products_agree(hesse.LossHessian(model, force_loss, data), model, lambda call: force_loss(call, batch))


@pytest.mark.parametrize("norm_first", [False, True])
def test_pytorchs_transformer_layer(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=norm_first).double()
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(40, 3).double())
    x, y = inputs(6, 5, 8), torch.randint(3, (6,), generator=generator())
    H = hesse.LossHessian(model, F.cross_entropy, loader(x, y))
    assert_products_agree(H, model, lambda call: F.cross_entropy(call(x), y))
