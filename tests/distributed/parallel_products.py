"""Checks that ranks run: operators of tensor parallel models against torch alone, in float64."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

import hesse
from hesse._autograd import cut_history
from tests.capabilities import differentiates_gathers_twice
from tests.distributed.sharded_products import entries, require_products
from tests.distributed.shared_products import (
    LOSS,
    POINT,
    SUM,
    VECTORS,
    X,
    Y,
    close,
    dense,
    matrices,
    mine,
    network,
    predicted,
    refused,
    require_same_bits,
)
from tests.distributed.test_dtensors import U, V, W, entering, plain, references
from tests.distributed.test_dtensors import close as same

GENERATOR = torch.Generator().manual_seed(4)
TOKENS, NEXT = [torch.randint(11, (6, 8), generator=GENERATOR) for _ in range(2)]
MLP = {"0": ColwiseParallel(), "2": RowwiseParallel()}


@functools.cache
def mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (dist.get_world_size(),))


def parallel(plan: dict[str, Any] = MLP) -> nn.Module:
    return parallelize_module(network(), mesh(), plan)


class Block(nn.Module):
    """Attention, whose heads ranks share out, and two layers."""

    def __init__(self, width: int, is_fused: bool) -> None:
        super().__init__()
        self.norm, self.norm2, self.is_fused = nn.LayerNorm(width), nn.LayerNorm(width), is_fused
        self.q, self.k, self.v, self.o = [nn.Linear(width, width) for _ in range(4)]
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        q, k, v = [layer(z).unflatten(-1, (-1, 2)).transpose(1, 2) for layer in (self.q, self.k, self.v)]
        if self.is_fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mask = torch.ones(8, 8, dtype=torch.bool).triu(1)
            mixed = (q @ k.mT / 2**0.5).masked_fill(mask, float("-inf")).softmax(-1) @ v
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.wide(self.norm2(x))))


class LanguageModel(nn.Module):
    def __init__(self, *, is_tied: bool = False, is_fused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.block = nn.Embedding(11, 8), Block(8, is_fused)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 11, bias=False)
        self.double()
        self.is_tied = is_tied
        if is_tied:
            self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.block(self.words(tokens))))


def loss(logits: Tensor, following: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), following.flatten())


BLOCK = {
    **{f"block.{name}": ColwiseParallel() for name in ("q", "k", "v", "wide")},
    **{f"block.{name}": RowwiseParallel() for name in ("o", "narrow")},
}
ENDS = {
    "words": RowwiseParallel(input_layouts=Replicate()),
    "head": ColwiseParallel(output_layouts=Replicate()),
}
INNER = Shard(1)
SEQUENCE = {
    "words": RowwiseParallel(input_layouts=Replicate(), output_layouts=INNER),
    "block": PrepareModuleInput(input_layouts=INNER, desired_input_layouts=INNER, use_local_output=False),
    **{name: SequenceParallel() for name in ("block.norm", "block.norm2", "norm")},
    **{f"block.{name}": ColwiseParallel(input_layouts=INNER) for name in ("q", "k", "v", "wide")},
    **{f"block.{name}": RowwiseParallel(output_layouts=INNER, use_local_output=False) for name in ("o", "narrow")},
    "head": ColwiseParallel(input_layouts=INNER, output_layouts=Replicate()),
}


def product(model: nn.Module, v: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient over all tokens, and the Hessian's product with a flat vector, by torch alone."""
    x = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    parts = torch.autograd.grad(loss(functional_call(model, x, (TOKENS,)), NEXT), [*x.values()], create_graph=True)
    gradient = torch.cat([part.reshape(-1) for part in parts])
    return gradient.detach(), torch.cat([part.reshape(-1) for part in torch.autograd.grad(gradient @ v, [*x.values()])])


def the_four_operators() -> None:
    for operator, expected in matrices():
        H = operator(parallel(), LOSS, [(X[:5], Y[:5]), (X[5:], Y[5:])])
        require_products(H, expected @ VECTORS)
        x = POINT.clone().requires_grad_()
        value = LOSS(predicted(x, X), Y)
        close(H.value, value.detach())
        close(H.flatten(H.gradient), torch.autograd.grad(value, x)[0][entries(H)])
        require_same_bits(H.value, H.whole(H.flatten(H.gradient)))
        assert [entry.placements for entry in H.gradient.values() if isinstance(entry, DTensor)] == [
            (Shard(0),),
            (Shard(0),),
            (Shard(1),),
            (Replicate(),),
        ]


def sums_and_whole_layers() -> None:
    require_products(hesse.LossHessian(parallel(), SUM, (X, Y)), dense(loss=SUM) @ VECTORS)
    # The first layer is whole on each rank, and what it makes enters the second one.
    H = hesse.LossHessian(parallel({"2": ColwiseParallel(output_layouts=Replicate())}), LOSS, (X, Y))
    require_products(H, dense() @ VECTORS)
    require_products(H.block("0"), dense()[:40, :40] @ VECTORS[:40], VECTORS[:40])


def language_models() -> None:
    for plan, is_fused, is_tied in ((BLOCK | ENDS, True, True), (SEQUENCE, False, False)):
        alone, model = LanguageModel(is_tied=is_tied), LanguageModel(is_fused=is_fused)
        parallelize_module(model, mesh(), plan)
        if is_tied:
            model.head.weight = model.words.weight
        n = sum(parameter.numel() for parameter in alone.parameters())
        vectors = torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        gradient, expected = product(alone, vectors[:, 0])
        H = hesse.LossHessian(model, loss, (TOKENS, NEXT))
        close(H.flatten(H.gradient), gradient[entries(H)])
        require_products(H, expected.unsqueeze(1), vectors)


def points_that_move() -> None:
    """The model trains on, bit for bit as one that hesse has not seen; a point that has moved is refused."""
    model, other = parallel(), parallel()
    optimizers = [torch.optim.Adam(net.parameters(), lr=0.1) for net in (model, other)]
    H = None
    for _ in range(3):
        for net, optimizer in zip((model, other), optimizers, strict=True):
            LOSS(net(X), Y).backward()
            optimizer.step()
            optimizer.zero_grad()
        if H is not None:
            refused(hesse.StalePointError, "has changed", functools.partial(H.__matmul__, VECTORS[entries(H), 0]))
        H = hesse.LossHessian(model, LOSS, (X, Y)) if H is None else H.at()
        whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]
        at = torch.cat([parameter.detach().reshape(-1) for parameter in whole])
        expected = torch.autograd.functional.hessian(lambda flat: LOSS(predicted(flat, X), Y), at)
        require_products(H, expected @ VECTORS)
    for trained, reference in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(*[p.to_local() if isinstance(p, DTensor) else p for p in (trained, reference)])


def questions() -> None:
    """As on one process: eigenvalues, the trace, a linear system."""
    H = hesse.LossHessian(parallel(), LOSS, (X, Y))
    matrix, here = dense(), entries(H)
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    top = hesse.eigsh(H, k=2, rng=0, tol=1e-8)
    alone = hesse.eigsh(hesse.LossHessian(network(), LOSS, (X, Y)), k=2, rng=0, tol=1e-8)
    close(top.values, values.flip(0)[:2], 1e-9)
    close(H.whole(top.vectors).abs(), vectors.flip(1)[:, :2].abs(), 1e-6)
    assert top.num_products == alone.num_products
    require_same_bits(top.values, H.whole(top.vectors))
    bias = hesse.trace(H.block("2.bias"), method="exact").estimate
    close(torch.tensor(bias, dtype=torch.float64), matrix[72:, 72:].trace(), 1e-9)
    found = hesse.solve(H.shift(1.0), H.gradient, tol=1e-11).solution
    gradient = H.whole(H.flatten(H.gradient))
    expected = torch.linalg.solve(matrix + torch.eye(76, dtype=torch.float64), gradient)
    close(H.flatten(found), expected[here], 1e-9)


class Scaled(nn.Module):
    """Its plain parameter multiplies what each rank has of the activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.scale, self.last = nn.Linear(4, 8), nn.Parameter(torch.ones(())), nn.Linear(8, 4)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.scale * self.first(x)).tanh())


def refusals() -> None:
    data = X, Y
    rank, last = dist.get_rank(), dist.get_world_size() - 1

    def operator(model: nn.Module, given: Any = data, loss: Any = LOSS, **options: Any) -> Callable[[], Any]:
        return lambda: hesse.LossHessian(model, loss, given, **options)

    other = (X + (rank == last), Y)
    for given in (other, [data, other], [data] * (1 + (rank == last)), mine(X, Y)):
        refused(ValueError, "evaluate the same batch", operator(parallel(), given))
    refused(NotImplementedError, "engine is 'compiled'", operator(parallel(), engine="compiled"))
    H = operator(parallel())()
    refused(NotImplementedError, "to_dense() needs whole vectors", H.to_dense)
    refused(NotImplementedError, "loss_at()", lambda: H.loss_at(H.gradient))
    refused(NotImplementedError, "data_block()", H.data_block)
    moved = {**H.gradient, "2.bias": H.gradient["0.weight"].full_tensor()[:4, 0]}
    refused(RuntimeError, "should be a DTensor", lambda: H @ moved)
    scaled = parallelize_module(Scaled(), mesh(), {"first": ColwiseParallel(), "last": RowwiseParallel()})
    refused(NotImplementedError, "has other rows by 'scale' on rank", operator(scaled))
    cut = parallel({"2": ColwiseParallel()})
    refused(RuntimeError, "has one loss", operator(cut, loss=lambda outputs, _: outputs.square().mean()))
    apart = ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)

    def parted(outputs: DTensor, labels: Tensor) -> Tensor:
        with loss_parallel():
            return F.cross_entropy(outputs, DTensor.from_local(labels, mesh(), [Replicate()])).full_tensor()

    refused(hesse.NoDerivativeError, "Leave loss_parallel() out", operator(parallel({"2": apart}), loss=parted))
    refused(TypeError, "should predict plain tensors", lambda: hesse.GaussNewton(parallel({"2": apart}), LOSS, data))


def derivatives_that_miss_a_term() -> None:
    """PyTorch's own backward of ``from_local`` is noticed; this fails when PyTorch mends it, and the rule can go."""
    half = parallel({"2": ColwiseParallel(output_layouts=Replicate())})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut_history, "_from_local", lambda node, placements: lambda gradients, cotangents: None)
        refused(NotImplementedError, "is not symmetric", lambda: hesse.LossHessian(half, LOSS, (X, Y)))
    require_products(hesse.LossHessian(half, LOSS, (X, Y)), dense() @ VECTORS)


def functions() -> None:
    """Of DTensors, whose derivatives of every order are those of a plain function."""
    gradient, expected, third = references()
    w, v, u = [distribute_tensor(tensor, mesh(), [Shard(0)]) for tensor in (W, V, U)]
    for func, x, tangent, other in (
        (lambda w: entering(w, mesh()), W, V, U),
        (lambda w: plain(w.full_tensor()), w, v, u),
        (in_turn, w, v, u),
    ):
        same(hesse.functional.vjp(func, x)[1], gradient)
        for compute in (hesse.vhp, hesse.hvp):
            same(compute(func, x, tangent)[1], expected)
        same(hesse.functional.jvp(func, x, tangent)[1], (gradient * V).sum())
        tracked = x.clone().detach().requires_grad_()
        same(torch.autograd.grad(hesse.vhp(func, tracked, tangent, create_graph=True)[1], tracked, other)[0], third)


def in_turn(w: DTensor) -> Tensor:
    """Every rank has its share of the function, of which the square is taken and the root."""
    share = (dist.get_rank() + 1) * plain(w.full_tensor(grad_placements=[Partial()]))
    total = DTensor.from_local(share, mesh(), [Partial()]).redistribute(placements=[Replicate()]).to_local()
    ranks = dist.get_world_size()
    return (2 * total / (ranks * (ranks + 1))).square().sqrt()


class Collectives(TorchDispatchMode):
    """The elements that layers send, and how often hesse gathers parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = self.gathered = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name == "_c10d_functional::all_reduce":
            self.sent += args[0].numel()
        self.gathered += name == "c10d::_allgather_base_"
        return func(*args, **(kwargs or {}))


def collectives() -> None:
    """A product sends what a forward and a backward send, and gathers parameters once."""
    model = parallelize_module(LanguageModel(), mesh(), BLOCK)
    with Collectives() as training:
        loss(model(TOKENS), NEXT).backward()
    H = hesse.LossHessian(model, loss, (TOKENS, NEXT))
    with Collectives() as product:
        H @ torch.ones(H.length, dtype=torch.float64)
    # Forward: two layers; backward: the inputs of four; activations of 6 rows, 8 tokens and 8 entries.
    assert product.sent == training.sent == (2 + 4) * TOKENS.numel() * 8
    assert product.gathered == 1


def draws() -> None:
    """All ranks draw the same: a Fisher by draws is symmetric and that of one process."""
    alone, model = network(), parallel()
    expected = hesse.Fisher(alone, LOSS, (X, Y), samples=3, rng=1) @ VECTORS
    require_products(hesse.Fisher(model, LOSS, (X, Y), samples=3, rng=1), expected)


def where_pytorch_can(check: Callable[[], None]) -> Callable[[], None]:
    """The check; DTensors of PyTorch 2.11 have no second derivatives, which is said."""

    @functools.wraps(check)
    def checked() -> None:
        if differentiates_gathers_twice(mesh()):
            check()
        else:
            refused(
                hesse.NoDerivativeError,
                "cannot be differentiated once more",
                lambda: hesse.LossHessian(parallel(), LOSS, (X, Y)),
            )

    return checked


CHECKS = [
    where_pytorch_can(check)
    for check in (
        the_four_operators,
        sums_and_whole_layers,
        language_models,
        points_that_move,
        questions,
        refusals,
        derivatives_that_miss_a_term,
        functions,
        collectives,
        draws,
    )
]
