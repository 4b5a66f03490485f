"""Derivatives through DTensors are right or refused; references are torch alone, on plain tensors.

Placements decide what PyTorch's backwards do, also where a mesh has one rank.
"""

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, loss_parallel, parallelize_module

import hesse
from tests.capabilities import differentiates_gathers_twice

GENERATOR = torch.Generator().manual_seed(0)
W, V, U = [torch.randn(4, 3, dtype=torch.float64, generator=GENERATOR) for _ in range(3)]
DATA = torch.randn(7, 3, dtype=torch.float64, generator=GENERATOR)
OUTER = torch.randn(6, 4, dtype=torch.float64, generator=GENERATOR)
LABELS = torch.arange(7) % 4
REFUSED = pytest.raises(hesse.NoDerivativeError, match=r"^The function cannot be differentiated once more: .*DTensor")


def plain(w: Tensor) -> Tensor:
    return ((DATA @ w.mT).tanh() @ OUTER.mT).tanh().square().sum() + (w**3).sum()


def gathered(w: DTensor) -> Tensor:
    """A function of the whole tensor, whose gradient is summed over ranks."""
    return plain(w.full_tensor(grad_placements=[Partial()]))


def of_dtensors(w: DTensor) -> Tensor:
    """Nothing but DTensors, until the last number."""
    mesh = w.device_mesh
    data, outer = distribute_tensor(DATA, mesh, [Replicate()]), distribute_tensor(OUTER, mesh, [Shard(0)])
    return (((data @ w.mT).tanh() @ outer.mT).tanh().square().sum() + (w**3).sum()).full_tensor()


def entering(w: Tensor, mesh: DeviceMesh) -> Tensor:
    """What a column-wise parallel layer does to the plain tensor that it is given."""
    hidden = DTensor.from_local((DATA @ w.mT).tanh(), mesh, [Replicate()])
    outer = distribute_tensor(OUTER, mesh, [Shard(0)])
    return (hidden @ outer.mT).tanh().square().sum().full_tensor() + (w**3).sum()


def entering_linearly(w: Tensor, mesh: DeviceMesh) -> Tensor:
    """A plain tensor becomes a DTensor, whose gradient depends on nothing."""
    return DTensor.from_local((w**3).sum(1), mesh, [Replicate()]).sum().full_tensor() + plain(w) - (w**3).sum()


def log_of_a_sum(w: DTensor) -> Tensor:
    """Nonlinear in what is summed over ranks."""
    total = DTensor.from_local(gathered(w), w.device_mesh, [Partial()]).redistribute(placements=[Replicate()])
    return total.to_local().exp()


def references() -> tuple[Tensor, Tensor, Tensor]:
    """Gradient, product with V, and the derivative of that along U."""
    w = W.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(plain(w), w, create_graph=True)
    (product,) = torch.autograd.grad(gradient, w, V, create_graph=True)
    (third,) = torch.autograd.grad(product, w, U)
    return gradient.detach(), product.detach(), third


def close(found: Any, expected: Tensor) -> None:
    whole = found.full_tensor() if isinstance(found, DTensor) else found
    torch.testing.assert_close(whole.detach(), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("placement", [Shard(0), Shard(1), Replicate()])
@pytest.mark.parametrize("func", [gathered, of_dtensors])
def test_products_with_dtensors_are_right_or_refused_where_pytorch_has_none(
    func: Callable[[DTensor], Tensor], placement: Placement, mesh: DeviceMesh
) -> None:
    gradient, product, third = references()
    w, v, u = [distribute_tensor(tensor, mesh, [placement]) for tensor in (W, V, U)]
    close(hesse.functional.vjp(func, w)[1], gradient)
    able = differentiates_gathers_twice(mesh)
    if not able and func is gathered:
        with REFUSED:
            hesse.vhp(func, w, v)
    refusable = contextlib.nullcontext() if able else contextlib.suppress(hesse.NoDerivativeError)
    with refusable:
        close(hesse.functional.jvp(func, w, v)[1], (gradient * V).sum())
    with refusable:
        close(hesse.vhp(func, w, v)[1], product)
    with refusable:
        H = hesse.Hessian(func, w)
        close(H.gradient, gradient)
        close(H @ v, product)
    with refusable:
        tracked = w.clone().detach().requires_grad_()
        followed = hesse.vhp(func, tracked, v, create_graph=True)[1]
        close(torch.autograd.grad(followed, tracked, u)[0], third)


def test_hvp_of_dtensors_is_right_where_no_plain_tensor_comes_between(mesh: DeviceMesh) -> None:
    w, v = [distribute_tensor(tensor, mesh, [Shard(0)]) for tensor in (W, V)]
    close(hesse.hvp(of_dtensors, w, v)[1], references()[1])


@pytest.mark.parametrize("placement", [Shard(0), Shard(1), Replicate()])
def test_hvp_through_a_gathered_tensor_is_right_or_refused_where_pytorch_has_none(
    placement: Placement, mesh: DeviceMesh
) -> None:
    w, v = [distribute_tensor(tensor, mesh, [placement]) for tensor in (W, V)]
    if differentiates_gathers_twice(mesh):
        close(hesse.hvp(gathered, w, v)[1], references()[1])
        return
    with REFUSED:
        hesse.hvp(gathered, w, v)


@pytest.mark.private
def test_a_plain_tensor_that_becomes_a_dtensor_is_right_where_its_gradient_depends_on_it(mesh: DeviceMesh) -> None:
    gradient, product, third = references()

    def func(w: Tensor) -> Tensor:
        return entering(w, mesh)

    close(hesse.functional.vjp(func, W)[1], gradient)
    close(hesse.Jacobian(func, W).T @ torch.ones((), dtype=torch.float64), gradient)
    # PyTorch is wrong without a word; when it is not any more, the rule of ``cut_history`` can go.
    assert not torch.allclose(torch.autograd.functional.vhp(func, W, V)[1], product, rtol=1e-3)
    close(hesse.vhp(func, W, V)[1], product)
    if not differentiates_gathers_twice(mesh):
        return
    close(hesse.hvp(func, W, V)[1], product)
    close(hesse.functional.jvp(func, W, V)[1], (gradient * V).sum())
    close(hesse.Hessian(func, W) @ V, product)
    close((hesse.functional.hessian(func, W) * V).sum((2, 3)), product)
    close(hesse.Jacobian(func, W) @ V, (gradient * V).sum())
    close(hesse.GaussNewton(func, inputs=W) @ V, gradient * (gradient * V).sum())
    tracked = W.clone().requires_grad_()
    close(torch.autograd.grad(hesse.vhp(func, tracked, V, create_graph=True)[1], tracked, U)[0], third)


def test_a_plain_tensor_that_becomes_a_dtensor_linearly_is_right(mesh: DeviceMesh) -> None:
    close(hesse.vhp(lambda w: entering_linearly(w, mesh), W, V)[1], references()[1])


def test_a_function_of_a_sum_over_ranks_is_right_or_refused_where_pytorch_has_none(mesh: DeviceMesh) -> None:
    w, v = [distribute_tensor(tensor, mesh, [Shard(0)]) for tensor in (W, V)]
    if differentiates_gathers_twice(mesh):
        expected = torch.autograd.functional.vhp(lambda w: plain(w).exp(), W, V)[1]
        torch.testing.assert_close(hesse.vhp(log_of_a_sum, w, v)[1].full_tensor(), expected, rtol=1e-12, atol=0)
        return
    with REFUSED:
        hesse.vhp(log_of_a_sum, w, v)


def test_check_finds_nothing_where_a_plain_tensor_became_a_dtensor(mesh: DeviceMesh) -> None:
    assert not hesse.check(lambda w: entering(w, mesh), W).findings


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(3, 4), nn.Linear(4, 8), nn.Linear(8, 4)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x).tanh()).tanh())


def test_a_tensor_parallel_model_in_a_function_is_right_or_refused_where_pytorch_has_none(mesh: DeviceMesh) -> None:
    def products(model: nn.Module, names: Sequence[str]) -> list[Tensor]:
        chosen = {name: model.get_parameter(name).detach() for name in names}
        ones = {name: torch.ones_like(tensor) for name, tensor in chosen.items()}

        def loss(parameters: dict[str, Tensor]) -> Tensor:
            return F.cross_entropy(torch.func.functional_call(model, parameters, (DATA,)), LABELS)

        found = hesse.vhp(loss, chosen, ones)[1].values()
        return [tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for tensor in found]

    model = parallelize_module(Net(), mesh, {"second": ColwiseParallel(), "third": RowwiseParallel()})
    names = ["first.weight", "second.weight", "second.bias", "third.weight"]
    if not differentiates_gathers_twice(mesh):
        with REFUSED:
            products(model, names)
        return
    for found, expected in zip(products(model, names), products(Net(), names), strict=True):
        close(found, expected)


@pytest.mark.private
def test_loss_parallel_is_refused_but_for_gradients(mesh: DeviceMesh) -> None:
    def loss(w: Tensor) -> Tensor:
        labels = distribute_tensor(LABELS, mesh, [Replicate()]) if isinstance(w, DTensor) else LABELS
        data = distribute_tensor(DATA, mesh, [Replicate()]) if isinstance(w, DTensor) else DATA
        return F.cross_entropy(data @ w.mT, labels)

    w, v = [distribute_tensor(tensor, mesh, [Shard(0)]) for tensor in (W, V)]
    gradient, product = torch.func.grad(loss)(W), torch.autograd.functional.vhp(loss, W, V)[1]
    close(hesse.vhp(loss, w, v)[1], product)
    with loss_parallel():
        close(hesse.functional.vjp(loss, w)[1], gradient)
        for compute in (hesse.vhp, hesse.hvp):
            with pytest.raises(hesse.NoDerivativeError, match=re.escape("Leave loss_parallel() out.")):
                compute(loss, w, v)


def test_flat_vectors_of_dtensors_are_refused(mesh: DeviceMesh) -> None:
    w = distribute_tensor(W, mesh, [Shard(0)])
    H = hesse.Hessian(of_dtensors, w)
    for compute in (lambda: H @ V.reshape(-1), H.to_dense, lambda: hesse.trace(H, rng=0)):
        with pytest.raises(TypeError, match="need dense tensors but the Tensor is a DTensor"):
            compute()


@pytest.mark.parametrize("vectorize", [False, True])
def test_whole_matrices_of_dtensors_are_refused(vectorize: bool, mesh: DeviceMesh) -> None:
    w = distribute_tensor(W, mesh, [Shard(0)])
    with pytest.raises(NotImplementedError, match="A matrix of derivatives needs plain tensors"):
        hesse.functional.hessian(of_dtensors, w, vectorize=vectorize)
    with pytest.raises(NotImplementedError, match="A matrix of derivatives needs plain tensors"):
        hesse.functional.jacobian(lambda w: w**2, w, vectorize=vectorize)
    with pytest.raises(NotImplementedError, match="A matrix of derivatives needs plain tensors"):
        hesse.functional.jacobian(of_dtensors, w, vectorize=True, strategy="forward-mode")


def test_a_vector_is_a_dtensor_where_the_input_is_one(mesh: DeviceMesh) -> None:
    w = distribute_tensor(W, mesh, [Shard(0)])
    with pytest.raises(
        RuntimeError, match=r"v has an invalid type: should be a DTensor but got <class 'torch.Tensor'>"
    ):
        hesse.vhp(gathered, w, V)
    with pytest.raises(RuntimeError, match=r"v has an invalid type: should be a plain tensor but got .*DTensor"):
        hesse.vhp(plain, W, w)


def test_a_write_into_what_a_rank_holds_of_a_dtensor_is_noticed(mesh: DeviceMesh) -> None:
    w, v = [distribute_tensor(tensor.clone(), mesh, [Shard(0)]) for tensor in (W, V)]
    H = hesse.Hessian(lambda w: (w**3).sum().full_tensor(), w)
    close(H @ v, 6 * W * V)
    w.to_local().data[0, 0] += 1
    with pytest.raises(hesse.StalePointError, match="The input tensor has changed in place"):
        H @ v
