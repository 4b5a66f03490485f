"""What a product waits for on a device, and that changes of a point there are noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import hesse
from hesse._solvers.run import Products
from tests.device import pretended
from tests.device.entries import CPU, numbers

pytestmark = pytest.mark.filterwarnings("ignore::hesse.ConvergenceWarning")
LAYERS = 12


class Block(nn.Module):
    """A residual block with eight parameters, the largest of more elements than are compared whole."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.grow, self.shrink = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.gate = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(x)
        out: Tensor = x + self.shrink(torch.tanh(self.grow(hidden))) * torch.sigmoid(self.gate(hidden))
        return out


class Deep(nn.Module):
    """Many parameters of several shapes, two of them of another dtype or without history."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(101, 64)
        self.blocks = nn.Sequential(*[Block(64) for _ in range(LAYERS)])
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("unknown", torch.full((3,), float("nan")))

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.blocks(self.table(tokens)) @ self.table.weight.mT * self.scale
        return out


@pytest.fixture
def model() -> nn.Module:
    """The model on a device."""
    torch.manual_seed(0)
    return Deep().to("cuda")


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Its batch, there."""
    tokens = (numbers(2, 9).abs() * 30).long().clamp(max=100).to("cuda")
    return tokens[:, :-1], tokens[:, 1:]


def _loss(prediction: Tensor, target: Tensor) -> Tensor:
    # By a product and no gather, whose backward reads back on the pretended device.
    one_hot = nn.functional.one_hot(target, prediction.shape[-1]).to(prediction.dtype)
    return -(prediction.log_softmax(-1) * one_hot).sum(-1).mean()


def _bare(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Callable[[], object]:
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(_loss(model(batch[0]), batch[1]), parameters, create_graph=True)
    vectors = [torch.ones_like(parameter) for parameter in parameters]
    return lambda: torch.autograd.grad(gradients, parameters, vectors, retain_graph=True)


def test_a_product_waits_for_the_device_once(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    bare = _bare(model, batch)
    with pretended.counted() as reference:
        bare()
    H = hesse.LossHessian(model, _loss, batch, engine="tape")
    v = torch.ones(H.shape[1], device="cuda")
    H @ v
    with pretended.counted() as ours:
        H @ v
    assert len(list(model.parameters())) == LAYERS * 8 + 2
    assert ours.syncs - reference.syncs <= 1
    # Cut, concatenated, and compared by a few operations for each layout of a sample.
    assert ours.launches - reference.launches <= 40


@pytest.mark.parametrize("name", ["table.weight", "blocks.3.grow.bias", "scale", "count", "unknown"])
def test_a_change_by_data_is_named(model: nn.Module, batch: tuple[Tensor, Tensor], name: str) -> None:
    H = hesse.LossHessian(model, _loss, batch, engine="tape")
    v = torch.ones(H.shape[1], device="cuda")
    H @ v
    dict([*model.named_parameters(), *model.named_buffers()])[name].data.fill_(7)
    with pytest.raises(hesse.StalePointError, match=name.replace(".", r"\.")):
        H @ v


def test_zeros_of_another_sign_are_no_change() -> None:
    x = torch.zeros(3, device="cuda")
    H = hesse.Hessian(lambda x: (x**3).sum() + x.square().sum(), x, engine="tape")
    x.data.copy_(torch.tensor([0.0, -0.0, 0.0]))
    assert torch.equal((H @ torch.ones_like(x)).cpu(), torch.full((3,), 2.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.complex128, torch.bfloat16, torch.bool])
def test_tensors_of_every_dtype_are_watched(dtype: torch.dtype) -> None:
    beside = torch.zeros(5, 2, dtype=dtype, device="cuda").mT
    x = torch.ones(2, 5, device="cuda")
    H = hesse.Hessian(lambda x: ((x + beside.real if dtype.is_complex else x + beside) ** 4).sum(), x, engine="tape")
    H @ torch.ones(10, device="cuda")
    beside.data.fill_(1)
    with pytest.raises(hesse.StalePointError, match="beside"):
        H @ torch.ones(10, device="cuda")


QUESTIONS: dict[str, Callable[[hesse.Operator, Callable[[hesse.Progress], bool]], object]] = {
    "eigsh": lambda H, callback: hesse.eigsh(H, 1, rng=0, callback=callback, max_products=30),
    "solve": lambda H, callback: hesse.solve(H, torch.ones(H.shape[1], device="cuda"), callback=callback),
    "trace": lambda H, callback: hesse.trace(H, rng=0, callback=callback, method="hutchinson", max_products=40),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_change_amid_a_question_is_noticed(name: str) -> None:
    scale = numbers(300).to("cuda")
    H = hesse.Hessian(lambda x: ((x * scale) ** 4).sum(), numbers(300, seed=1).to("cuda"), engine="tape")

    def change(progress: hesse.Progress) -> bool:
        if progress.num_products >= 4:
            scale.data.fill_(2)
        return False

    with pytest.raises(hesse.StalePointError, match="scale"):
        QUESTIONS[name](H, change)


def test_products_of_a_question_are_read_back_with_the_guards_flag() -> None:
    scale = numbers(300).to("cuda")
    H = hesse.Hessian(lambda x: ((x * scale) ** 4).sum(), numbers(300, seed=1).to("cuda"), engine="tape")
    with Products(H, "a question", max_products=10, callback=None, progress=False) as products:
        V = torch.ones(300, 1, device="cuda")
        products.multiply(V)
        with pretended.counted() as counts:
            products.multiply(V)
        assert counts.syncs == 1
        V[3] = float("nan")
        with pytest.raises(hesse.NonFiniteProductError, match="Product 3 of a question"):
            products.multiply(V)


def test_a_large_product_is_finite() -> None:
    x = torch.zeros(4, device=CPU)
    largest = torch.finfo(torch.float32).max / 4
    H = hesse.Hessian(lambda x: (x.square() * 1e30).sum(), x, engine="tape")
    with Products(H, "a question", max_products=10, callback=None, progress=False) as products:
        products.multiply(torch.ones(4, 1, device=CPU))
        found = products.multiply(torch.full((4, 1), 1e8, device=CPU))
    assert float(found.max()) <= largest
