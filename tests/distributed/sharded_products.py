"""Checks that ranks run: operators of models that ``fully_shard`` cut up, against torch alone, in float64."""

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Replicate
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import hesse
from tests.distributed.shared_products import (
    LOSS,
    POINT,
    SUM,
    VECTORS,
    X,
    Y,
    close,
    dense,
    gauss_newton,
    matrices,
    mine,
    network,
    predicted,
    refused,
    require_same_bits,
)

GENERATOR = torch.Generator().manual_seed(3)
TOKENS, NEXT = [torch.randint(11, (7, 5), generator=GENERATOR) for _ in range(2)]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width + 1), nn.Linear(2 * width + 1, width)
        self.checkpointed = False

    def forward(self, x: Tensor, *, mask: Tensor) -> tuple[Tensor, Tensor]:
        scores = (self.mix(self.norm(x)) @ x.mT).masked_fill(mask, float("-inf"))
        x = x + scores.softmax(-1) @ x
        if self.checkpointed:
            return checkpoint(self.feed, x, use_reentrant=False), scores
        return self.feed(x), scores

    def feed(self, x: Tensor) -> Tensor:
        return x + self.narrow(F.gelu(self.wide(x)))


class LanguageModel(nn.Module):
    """Words are embedded and told by the same matrix; its blocks return more than one tensor."""

    def __init__(self, width: int = 4, depth: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(11, width), nn.Parameter(torch.randn(5, width))
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 11, bias=False)
        self.head.weight = self.words.weight
        self.double()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places
        mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
        for block in self.blocks:
            x, _ = block(x, mask=mask)
        return self.head(self.norm(x))


def loss(logits: Tensor, following: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), following.flatten())


def product(model: nn.Module, v: Tensor, names: Sequence[str] | None = None) -> Tensor:
    """Of the Hessian over all tokens with a flat vector, by torch alone."""
    chosen = {name: p for name, p in model.named_parameters() if names is None or name in names}
    x = [parameter.detach().clone().requires_grad_() for parameter in chosen.values()]
    value = loss(functional_call(model, dict(zip(chosen, x, strict=True)), (TOKENS,)), NEXT)
    gradient = torch.cat([part.reshape(-1) for part in torch.autograd.grad(value, x, create_graph=True)])
    return torch.cat([part.reshape(-1) for part in torch.autograd.grad(gradient @ v, x)])


def entries(H: hesse.Operator) -> Tensor:
    """Indices of the entries of a vector that this rank holds."""
    return torch.cat([torch.arange(first, first + count) for first, count in H.ranges])


def require_products(H: Any, expected: Tensor, vectors: Tensor = VECTORS) -> None:
    """Products with flat and structured vectors are this rank's entries of the expected ones."""
    here = entries(H)
    assert H.shape == (len(expected),) * 2
    assert H.length == len(here)
    products = H @ vectors[here]
    close(products, expected[here])
    close(H.whole(products), expected)
    structured = H.unflatten(vectors[here, 0])
    close(H.flatten(structured), vectors[here, 0])
    close(H.flatten(H @ structured), expected[here, 0])


def sharded(*, mesh: Any = None) -> nn.Module:
    model = network()
    mesh = mesh or init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def the_four_operators() -> None:
    for operator, expected in matrices():
        H = operator(sharded(), LOSS, mine(X, Y))
        require_products(H, expected @ VECTORS)
        x = POINT.clone().requires_grad_()
        value = LOSS(predicted(x, X), Y)
        close(H.value, value.detach())
        gradient = H.flatten(H.gradient)
        close(gradient, torch.autograd.grad(value, x)[0][entries(H)])
        require_same_bits(H.value, H.whole(gradient))
        assert isinstance(H.gradient["0.weight"], DTensor)
        assert H.gradient["0.weight"].placements == H.unflatten(gradient)["0.weight"].placements


def sums_and_blocks() -> None:
    require_products(hesse.LossHessian(sharded(), SUM, mine(X, Y)), dense(loss=SUM) @ VECTORS)
    # Columns of the first layer come first.
    H = hesse.LossHessian(sharded(), LOSS, mine(X, Y))
    require_products(H.block("0"), dense()[:40, :40] @ VECTORS[:40], VECTORS[:40])
    require_products(
        hesse.LossHessian(sharded(), LOSS, mine(X, Y), params="2.weight"),
        dense()[40:72, 40:72] @ VECTORS[40:72],
        VECTORS[40:72],
    )


def unequal_batches() -> None:
    """Other numbers of batches, of rows and of labels that count."""
    rank = dist.get_rank()
    masked = Y.clone()
    masked[[0, 1, 2, 8]] = -100
    for y, memory in ((masked, None), (torch.where(torch.arange(13) < 7, -100, Y), 1)):
        x, here = mine(X, y)
        step = 2 + rank
        batches = [(x[i : i + step], here[i : i + step]) for i in range(0, len(x), step)]
        H = hesse.LossHessian(sharded(), LOSS, batches, memory=memory)
        require_products(H, dense(y) @ VECTORS)
        kept = torch.tensor(H.explain().kept)
        require_same_bits(kept)
        assert bool(kept) == (memory is None)


def ranks_without_batches() -> None:
    last = dist.get_rank() == dist.get_world_size() - 1
    batches = [(X[:5], Y[:5]), (X[5:], Y[5:])] if last else []
    for operator, expected in ((hesse.LossHessian, dense()), (hesse.GaussNewton, gauss_newton())):
        require_products(operator(sharded(), LOSS, batches, memory=1), expected @ VECTORS)
    refused(ValueError, "holds no batch, on any rank", lambda: hesse.LossHessian(sharded(), LOSS, []))
    none = torch.full_like(Y, -100)
    refused(ValueError, "all weights are zero, on any rank", lambda: hesse.LossHessian(sharded(), LOSS, mine(X, none)))


def draws() -> None:
    """A unit that is called again draws the same masks."""

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()
            self.net.insert(1, nn.Dropout(0.5))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    products = []
    for memory in (None, 1):
        model = Dropping()
        fully_shard(model.net)
        fully_shard(model)
        torch.manual_seed(3)
        H = hesse.LossHessian(model, LOSS, mine(X, Y), memory=memory)
        products.append(H @ VECTORS[entries(H)])
    close(products[0], products[1])


def points_that_move() -> None:
    """The model trains on, bit for bit as one that hesse has not seen; a point that has moved is refused."""
    model, other = sharded(), sharded()
    optimizers = [torch.optim.Adam(net.parameters(), lr=0.1) for net in (model, other)]
    v = VECTORS[:, 0]
    H = None
    for _ in range(3):
        for net, optimizer in zip((model, other), optimizers, strict=True):
            LOSS(net(X), Y).backward()
            optimizer.step()
            optimizer.zero_grad()
        if H is not None:
            refused(hesse.StalePointError, "has changed", functools.partial(H.__matmul__, v[entries(H)]))
        with torch.no_grad():
            model(X)
            other(X)
        H = hesse.LossHessian(model, LOSS, mine(X, Y)) if H is None else H.at()
        whole = [parameter.full_tensor().reshape(-1) for parameter in model.parameters()]
        at = torch.cat(whole).detach()
        expected = torch.autograd.functional.hessian(lambda flat: LOSS(predicted(flat, X), Y), at)
        require_products(H, expected @ VECTORS)
        other(X)
        model(X)
        # Whole parameters lie in the place of pieces after a forward.
        close(H @ v[entries(H)], (expected @ v)[entries(H)])
        for net in (model, other):
            for module in net.modules():
                getattr(module, "reshard", list)()
    for trained, reference in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(trained.to_local(), reference.to_local())
    assert type(model).__name__ == "FSDPSequential"
    few = hesse.LossHessian(model, LOSS, mine(X[:8], Y[:8])).at(data=mine(X, Y))
    require_products(few, expected @ VECTORS)


def questions() -> None:
    """As on one process: eigenvalues by a checkpoint too, the trace, a linear system."""
    H = hesse.LossHessian(sharded(), LOSS, mine(X, Y))
    matrix, here = dense(), entries(H)
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    folder = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)
    file = Path(folder[0]) / "eigsh.safetensors"
    begun = hesse.eigsh(H, k=2, rng=0, tol=1e-8, checkpoint=file, callback=lambda progress: progress.num_products > 12)
    assert not begun.converged
    top = hesse.eigsh(H, k=2, rng=0, tol=1e-8, checkpoint=file)
    close(top.values, values.flip(0)[:2], 1e-9)
    close(H.whole(top.vectors).abs(), vectors.flip(1)[:, :2].abs(), 1e-6)
    require_same_bits(top.values, H.whole(top.vectors))
    bias = hesse.trace(H.block("2.bias"), method="exact").estimate
    close(torch.tensor(bias, dtype=torch.float64), matrix[72:, 72:].trace())
    found = hesse.solve(H.shift(1.0), H.gradient, tol=1e-11).solution
    gradient = H.whole(H.flatten(H.gradient))
    expected = torch.linalg.solve(matrix + torch.eye(76, dtype=torch.float64), gradient)
    close(H.flatten(found), expected[here], 1e-9)


def errors_of_one_rank() -> None:
    rank, last = dist.get_rank(), dist.get_world_size() - 1

    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = [10**9]

        def forward(self, x: Tensor) -> Tensor:
            if rank == last and self.calls[0] <= 0:
                raise ArithmeticError("no further")
            return x

    def failing(batch: Any) -> float:
        if rank == last:
            raise LookupError("no weight here")
        return float(len(batch[0]))

    refused(LookupError, "no weight here", lambda: hesse.LossHessian(sharded(), LOSS, mine(X, Y), weight=failing))
    model = network()
    middle = Failing()
    model.insert(1, middle)
    for module in (model[0], model[3], model):
        fully_shard(module)
    H = hesse.LossHessian(model, LOSS, mine(X, Y), memory=1)
    here = entries(H)
    close(H @ VECTORS[here, 0], (dense() @ VECTORS[:, 0])[here])
    middle.calls[0] = 0
    # The others have gathered the first layer by then.
    refused(ArithmeticError, "no further", lambda: hesse.LossHessian(model, LOSS, mine(X, Y)))
    middle.calls[0] = 1
    again = hesse.LossHessian(model, LOSS, mine(X, Y))
    close(again @ VECTORS[here, 0], (dense() @ VECTORS[:, 0])[here])
    bias = model[0].bias.to_local()
    if rank == 0:
        bias.data.add_(1)
    refused(hesse.StalePointError, "'0.bias' has changed", lambda: again @ VECTORS[here, 0])
    if rank == 0:
        bias.data.sub_(1)
    vector = VECTORS[here, :2] if rank == last else VECTORS[here]
    refused(RuntimeError, "Ranks do different things at the same time", lambda: again @ vector)


def refusals() -> None:
    data = mine(X, Y)

    def operator(model: nn.Module, **options: Any) -> Callable[[], Any]:
        return lambda: hesse.LossHessian(model, LOSS, data, **options)

    def made(**words: Any) -> nn.Module:
        return fully_shard(network(), **words)

    mixed = made(mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    refused(NotImplementedError, "of mixed precision, torch.bfloat16", operator(mixed))
    other = made()
    register_fsdp_forward_method(other, "extra_repr")
    refused(NotImplementedError, "'extra_repr' of the model is registered as another forward", operator(other))
    refused(NotImplementedError, "engine is 'compiled'", operator(made(), engine="compiled"))
    H = operator(made())()
    refused(NotImplementedError, "to_dense() needs whole vectors", H.to_dense)
    refused(NotImplementedError, "rows() needs whole vectors", lambda: H.rows([0]))
    refused(NotImplementedError, "loss_at()", lambda: H.loss_at(H.gradient))
    refused(NotImplementedError, "loss_at()", lambda: hesse.check(H.loss_at, H.gradient))
    refused(NotImplementedError, "data_block()", H.data_block)
    refused(NotImplementedError, "a block of some parameters by others", lambda: H.block("0", "2"))
    v = H.unflatten(VECTORS[entries(H), 0])
    moved = {name: entry.redistribute(placements=[Replicate()]) for name, entry in v.items()}
    refused(ValueError, "Entry 0.weight of the vector given to LossHessian should be placed as", lambda: H @ moved)
    whole = {name: entry.full_tensor() for name, entry in v.items()}
    refused(RuntimeError, "should be a DTensor", lambda: H @ whole)
    refused(ValueError, "Each rank gives the entries that it holds", lambda: H @ VECTORS[:, 0])
    hesse.LossHessian(made(offload_policy=CPUOffloadPolicy(pin_memory=False)), LOSS, data)


CHECKS = [
    the_four_operators,
    sums_and_blocks,
    unequal_batches,
    ranks_without_batches,
    draws,
    points_that_move,
    questions,
    errors_of_one_rank,
    refusals,
]
