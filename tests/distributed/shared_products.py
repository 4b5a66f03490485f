"""Checks that ranks run: operators of all ranks against dense matrices of torch alone, in float64."""

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.parallel import DistributedDataParallel

import hesse

torch.set_num_threads(1)
GENERATOR = torch.Generator().manual_seed(1)
X, Y = torch.randn(13, 4, dtype=torch.float64, generator=GENERATOR), torch.arange(13) % 4
VECTORS = torch.randn(76, 3, dtype=torch.float64, generator=GENERATOR)
LOSS = nn.CrossEntropyLoss()
SUM = nn.CrossEntropyLoss(reduction="sum")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)).double()


NETWORK = network()
NAMES = [name for name, _ in network().named_parameters()]
LENGTHS = [parameter.numel() for parameter in network().parameters()]
POINT = torch.cat([parameter.detach().reshape(-1) for parameter in network().parameters()])


def predicted(flat: Tensor, x: Tensor) -> Tensor:
    parts = zip(NAMES, flat.split(LENGTHS), NETWORK.parameters(), strict=True)
    return functional_call(NETWORK, {name: part.reshape(like.shape) for name, part, like in parts}, (x,))


@functools.cache
def dense(y: Tensor = Y, loss: Callable[[Tensor, Tensor], Tensor] = LOSS) -> Tensor:
    """The Hessian of the loss over all data, by torch alone."""
    return torch.autograd.functional.hessian(lambda flat: loss(predicted(flat, X), y), POINT)


@functools.cache
def gauss_newton() -> Tensor:
    jacobian = jacrev(predicted)(POINT, X)
    p = predicted(POINT, X).softmax(-1)
    inner = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    return torch.einsum("nci,ncd,ndj->ij", jacobian, inner, jacobian) / len(X)


@functools.cache
def empirical_fisher() -> Tensor:
    def loss(flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return LOSS(predicted(flat, x.unsqueeze(0)), y.unsqueeze(0))

    gradients = vmap(jacrev(loss), (None, 0, 0))(POINT, X, Y)
    return gradients.mT @ gradients / len(X)


def mine(*tensors: Tensor) -> Any:
    """This rank's rows: of 13, seven and six, or four and three times three."""
    return tuple(tensor.tensor_split(dist.get_world_size())[dist.get_rank()] for tensor in tensors)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def require_same_bits(*tensors: Tensor) -> None:
    """The same on all ranks, to the bit."""
    for tensor in tensors:
        found = [torch.empty_like(tensor.contiguous()) for _ in range(dist.get_world_size())]
        dist.all_gather(found, tensor.contiguous())
        assert all(torch.equal(other, found[0]) for other in found)


def refused(kind: type[Exception], part: str, compute: Callable[[], Any]) -> None:
    """On all ranks."""
    with pytest.raises(kind, match=re.escape(part)):
        compute()


def require_products(H: Any, expected: Tensor, point: Tensor = POINT) -> None:
    """Every kind of product of an operator is that of a matrix, and has the same bits on all ranks."""
    one, several, whole = H @ VECTORS[:, 0], H @ VECTORS, H.to_dense()
    close(one, expected @ VECTORS[:, 0])
    close(several, expected @ VECTORS)
    close(whole, expected)
    close(H.flatten(H @ H.unflatten(VECTORS[:, 0])), expected @ VECTORS[:, 0])
    close(H.rows([5, -1]), expected[[5, -1]])
    # Columns of "0.bias" are 32 to 40, rows of "2.weight" 40 to 72.
    block = H.block("2.weight", "0.bias")
    close(block.to_dense(), expected[40:72, 32:40])
    close(block.T @ VECTORS[40:72], expected[32:40, 40:72] @ VECTORS[40:72])
    require_same_bits(one, several, whole, block.to_dense(), H.value, H.flatten(H.gradient))


def matrices() -> list[tuple[Any, Tensor]]:
    """The four operators over data, and their matrices for all rows."""
    fisher = gauss_newton()
    return [
        (hesse.LossHessian, dense()),
        (hesse.GaussNewton, fisher),
        (hesse.Fisher, fisher),
        (hesse.EmpiricalFisher, empirical_fisher()),
    ]


def the_four_operators() -> None:
    for operator, expected in matrices():
        H = operator(DistributedDataParallel(network()), LOSS, mine(X, Y))
        require_products(H, expected)
        x = POINT.clone().requires_grad_()
        value = LOSS(predicted(x, X), Y)
        close(H.value, value.detach())
        close(H.flatten(H.gradient), torch.autograd.grad(value, x)[0])


def sums_and_programs() -> None:
    require_products(hesse.LossHessian(network(), SUM, mine(X, Y), group=dist.group.WORLD), dense(loss=SUM))
    compiled = hesse.LossHessian(network(), LOSS, list(zip(*mine(X, Y), strict=True)), group=dist.group.WORLD)
    close(compiled @ VECTORS[:, 0], dense() @ VECTORS[:, 0])


def masked_rows_and_empty_ranks() -> None:
    masked = Y.clone()
    masked[[0, 1, 2, 8]] = -100
    for y in (masked, torch.where(torch.arange(13) < 7, -100, Y)):
        H = hesse.LossHessian(network(), LOSS, mine(X, y), group=dist.group.WORLD)
        require_products(H, dense(y))
    last = dist.get_rank() == dist.get_world_size() - 1
    H = hesse.LossHessian(network(), LOSS, [(X[:5], Y[:5]), (X[5:], Y[5:])] if last else [], group=dist.group.WORLD)
    require_products(H, dense())
    close(hesse.eigsh(H, k=1, rng=0).values, torch.linalg.eigvalsh(dense())[-1:], 1e-6)
    refused(
        ValueError, "holds no batch, on any rank", lambda: hesse.LossHessian(NETWORK, LOSS, [], group=dist.group.WORLD)
    )
    refused(
        ValueError,
        "all weights are zero, on any rank",
        lambda: hesse.LossHessian(NETWORK, LOSS, mine(X, torch.full_like(Y, -100)), group=dist.group.WORLD),
    )


def batches_that_do_not_stay() -> None:
    x, y = mine(X, Y)
    batches = [(x[i : i + 2], y[i : i + 2]) for i in range(0, len(x), 2)]
    kept = hesse.LossHessian(network(), LOSS, batches, group=dist.group.WORLD).explain()
    # One stays, where another one and its product need three times as much.
    memory = int(4.5 * kept.bytes_kept / kept.kept)
    H = hesse.LossHessian(network(), LOSS, batches, memory=memory, group=dist.group.WORLD)
    require_products(H, dense())
    assert H.explain().kept < H.explain().microbatches


def draws() -> None:
    """Each rank draws masks of its own, all from the generator of the first."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1000, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(self.weight * x, 0.5)

    ranks, rank = dist.get_world_size(), dist.get_rank()

    def diagonal(seed: int) -> Tensor:
        torch.manual_seed(seed)
        H = hesse.LossHessian(
            Masked(), lambda p, _: p.square().sum(-1).mean(), mine(torch.ones(ranks, 1), torch.ones(ranks)),
            group=dist.group.WORLD, reduction="mean",
        )  # fmt: skip
        found = H @ torch.ones(1000, dtype=torch.float64)
        close(H @ torch.ones(1000, dtype=torch.float64), found)
        require_same_bits(found)
        return found

    # A mask holds zeros and twos, and the Hessian twice their squares.
    first = diagonal(rank)
    close(first * ranks / 8, (first * ranks / 8).round())
    assert len(first.unique()) == ranks + 1
    close(diagonal(5 * rank), first)
    assert not torch.equal(diagonal(7), first)
    fishers = [
        hesse.Fisher(network(), LOSS, mine(X, Y), samples=2, rng=rng, group=dist.group.WORLD).to_dense()
        for rng in (3, 3, None)
    ]
    require_same_bits(*fishers)
    assert torch.equal(fishers[0], fishers[1])
    assert not torch.equal(fishers[0], fishers[2])


def many_draws() -> None:
    many = hesse.Fisher(network(), LOSS, mine(X, Y), samples=20_000, rng=0, group=dist.group.WORLD).to_dense()
    assert float((many - gauss_newton()).norm() / gauss_newton().norm()) < 0.02


def functions() -> None:
    x, y = mine(X, Y)
    H = hesse.Hessian(lambda flat: SUM(predicted(flat, x), y), POINT, group=dist.group.WORLD)
    expected = dense(loss=SUM)
    close(H @ VECTORS[:, 0], expected @ VECTORS[:, 0])
    close(H.to_dense(), expected)
    at = POINT.clone().requires_grad_()
    value = SUM(predicted(at, X), Y)
    close(H.value, value.detach())
    close(H.gradient, torch.autograd.grad(value, at)[0])
    moved = H.at(POINT + 1)
    close(moved.to_dense(), torch.autograd.functional.hessian(lambda flat: SUM(predicted(flat, X), Y), POINT + 1))
    G = hesse.GaussNewton(lambda flat: predicted(flat, x), POINT, group=dist.group.WORLD)
    jacobian = jacrev(predicted)(POINT, X).reshape(-1, 76)
    close(G.to_dense(), jacobian.mT @ jacobian)
    complex_point = torch.view_as_complex(POINT.reshape(-1, 2))
    share = (dist.get_rank() + 1.0) * torch.arange(1.0, 39, dtype=torch.float64)
    quartic = hesse.Hessian(lambda z: (share * z.abs().square().square()).sum(), complex_point, group=dist.group.WORLD)
    total = torch.arange(1.0, 39, dtype=torch.float64) * sum(range(1, dist.get_world_size() + 1))
    pairs = POINT.reshape(-1, 2)
    squares = pairs.square().sum(1, keepdim=True)
    v = VECTORS[:, 0].reshape(-1, 2)
    # Of |z|^4, by its real and imaginary part.
    by_hand = total.unsqueeze(1) * (4 * squares * v + 8 * pairs * (pairs * v).sum(1, keepdim=True))
    close(quartic @ VECTORS[:, 0], by_hand.reshape(-1))
    refused(
        TypeError, "group should be a process group", lambda: hesse.Hessian(lambda z: z.sum(), POINT, group="world")
    )
    refused(
        ValueError,
        "create_graph=True is for one process",
        lambda: hesse.Hessian(lambda z: z.sum(), POINT, group=dist.group.WORLD, create_graph=True),
    )


def data_block() -> None:
    """Columns are the data of all ranks, rank after rank."""
    at = X.clone().requires_grad_()
    flat = POINT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(LOSS(predicted(flat, at), Y), flat, create_graph=True)
    expected = torch.stack([torch.autograd.grad(entry, at, retain_graph=True)[0].reshape(-1) for entry in gradient])
    H = hesse.LossHessian(network(), LOSS, [mine(X, Y)], group=dist.group.WORLD)
    B = H.data_block()
    V = torch.randn(52, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    close(B @ V, expected @ V)
    close(B.T @ VECTORS, expected.mT @ VECTORS)
    assert [leaf.shape for leaf in B.domain.leaves] == [part.shape for part in X.tensor_split(dist.get_world_size())]
    require_same_bits(B @ V, B.T @ VECTORS)


def points_that_move() -> None:
    model = DistributedDataParallel(network())
    H = hesse.LossHessian(model, LOSS, mine(X, Y))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    # DDP averages over ranks, so each takes all rows to agree with one process.
    LOSS(model(X), Y).backward()
    alone = network()
    LOSS(alone(X), Y).backward()
    for parameter, other in zip(model.parameters(), alone.parameters(), strict=True):
        close(parameter.grad, other.grad)
    optimizer.step()
    refused(hesse.StalePointError, "has changed", lambda: H @ VECTORS[:, 0])
    moved = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    expected = torch.autograd.functional.hessian(lambda flat: LOSS(predicted(flat, X), Y), moved)
    close(H.at() @ VECTORS, expected @ VECTORS)
    few = hesse.LossHessian(model, LOSS, mine(X[:8], Y[:8])).at(data=mine(X, Y))
    close(few @ VECTORS, expected @ VECTORS)


def collectives() -> None:
    """A product makes one reduction of its size, and one of a few numbers for each rank."""
    H = hesse.LossHessian(network(), LOSS, mine(X, Y), group=dist.group.WORLD)
    H @ VECTORS[:, 0]
    sizes, reduce = [], dist.all_reduce

    def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(tensor.numel())
        return reduce(tensor, *args, **kwargs)

    dist.all_reduce = counted
    try:
        H @ VECTORS[:, 0]
        H @ VECTORS
        float(H.value)
    finally:
        dist.all_reduce = reduce
    ranks = dist.get_world_size()
    assert sizes == [3 * ranks, 76 + ranks, 3 * ranks, 3 * 76 + ranks]


def sparse_matrices() -> None:
    share, x = dist.get_rank() + 1.0, POINT[:12]

    def chain(x: Tensor) -> Tensor:
        return (x[1:] * x[:-1]).square().sum()

    H = hesse.Hessian(lambda x: share * chain(x), x, group=dist.group.WORLD)
    found = H.to_sparse(torch.stack([torch.arange(11), torch.arange(1, 12)]))
    total = sum(range(1, dist.get_world_size() + 1))
    close(found.to_dense(), total * torch.autograd.functional.hessian(chain, x))
    require_same_bits(found.values())
    assert H.explain().colors == 3
    # An entry that one rank's function alone has.
    lone = hesse.Hessian(lambda x: chain(x) + (x[0] * x[11] if share == 1 else 0.0), x, group=dist.group.WORLD)
    pattern = (torch.arange(12) - torch.arange(12).unsqueeze(1)).abs() <= 1
    refused(ValueError, "given to to_sparse() lacks an entry in row ", lambda: lone.to_sparse(pattern))
    fresh = hesse.Hessian(chain, x, group=dist.group.WORLD)
    refused(TypeError, "to_sparse() finds no pattern of a Hessian. Give pattern=", fresh.to_sparse)


CHECKS = [
    the_four_operators,
    sums_and_programs,
    masked_rows_and_empty_ranks,
    batches_that_do_not_stay,
    draws,
    many_draws,
    functions,
    data_block,
    points_that_move,
    collectives,
    sparse_matrices,
]
