"""The rules of conduct: a point is a point, randomness is drawn once, and nothing of the user's is changed."""

from __future__ import annotations

import functools
import gc
import math
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hesse

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 0, 1, 1, 0])


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def network(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), *layers, nn.Linear(4, 2))


def loss_of(model: nn.Module) -> Callable[[Any], Tensor]:
    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(model, parameters, (X,)), Y)

    return loss


def optimizer_step(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def test_a_product_after_an_optimizer_step_is_refused_and_at_means_now() -> None:
    model = network(nn.Tanh())
    parameters = dict(model.named_parameters())
    H = hesse.Hessian(loss_of(model), parameters)
    v = torch.ones(H.shape[1])
    H @ v
    optimizer_step(model)
    with pytest.raises(hesse.StalePointError, match=r"The input \['0\.weight'\] has changed .* Call at\(inputs\)"):
        H @ v
    now = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    torch.testing.assert_close(H.at(parameters) @ v, hesse.Hessian(loss_of(model), now) @ v)


def _captured_in_closure() -> tuple[Callable[[Tensor], Tensor], Tensor, str]:
    matrix = torch.eye(3)
    return lambda x: (matrix @ x).pow(3).sum(), matrix, "matrix"


def _captured_in_partial() -> tuple[Callable[[Tensor], Tensor], Tensor, str]:
    matrix = torch.eye(3)

    def func(x: Tensor, weight: Tensor) -> Tensor:
        return (weight @ x).pow(3).sum()

    return functools.partial(func, weight=matrix), matrix, "weight"


def _captured_parameter() -> tuple[Callable[[Tensor], Tensor], Tensor, str]:
    model = nn.Sequential(nn.Linear(3, 2), nn.Softplus())
    return lambda x: model(x).pow(2).sum(), model[0].bias, r"model\.0\.bias"


def _captured_buffer() -> tuple[Callable[[Tensor], Tensor], Tensor, str]:
    model = nn.BatchNorm1d(3).eval()
    return lambda x: model(x[None]).pow(3).sum(), model.running_var, r"model\.running_var"


def _captured_by_object() -> tuple[Callable[[Tensor], Tensor], Tensor, str]:
    class Energy:
        def __init__(self) -> None:
            self.charges = [torch.ones(3), torch.full((3,), 2.0)]

        def __call__(self, x: Tensor) -> Tensor:
            return (x**3 * self.charges[1]).sum()

        def method(self, x: Tensor) -> Tensor:
            return self(x)

    energy = Energy()
    return energy.method, energy.charges[1], r"charges\.1"


GLOBAL = torch.ones(3)


def _captured_global() -> tuple[Callable[[Tensor], Tensor], Tensor, str]:
    return lambda x: (x**3 * GLOBAL).sum(), GLOBAL, "GLOBAL"


@pytest.mark.parametrize(
    "capture",
    [
        _captured_in_closure,
        _captured_in_partial,
        _captured_parameter,
        _captured_buffer,
        _captured_by_object,
        _captured_global,
    ],
)
@pytest.mark.parametrize("through_data", [False, True], ids=["counted", "through_data"])
@pytest.mark.private
def test_a_changed_captured_tensor_is_named(
    capture: Callable[[], tuple[Callable[[Tensor], Tensor], Tensor, str]], through_data: bool
) -> None:
    func, tensor, name = capture()
    x = torch.tensor([1.0, 2.0, 3.0])
    H = hesse.Hessian(func, x)
    J = hesse.Jacobian(func, x)
    H @ x
    with torch.no_grad():
        (tensor.data if through_data else tensor).add_(1.0)
    for product in (lambda: H @ x, lambda: H @ torch.eye(3), lambda: H.block(()) @ x, lambda: J @ x):
        with pytest.raises(hesse.StalePointError, match=f"{name}' has changed in place"):
            product()
    H.at(x) @ x


@pytest.mark.parametrize("way", ["captured", "an argument", "of an object"])
def test_an_array_of_numpys_that_has_changed_is_named(way: str) -> None:
    x, array = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), np.array([2.0, 1.0, 3.0])
    holder = types.SimpleNamespace(held={"a": array})

    def func(x: Tensor, given: Any = None) -> Tensor:
        weights = {"captured": array, "an argument": given, "of an object": holder.held["a"]}[way]
        return torch.from_numpy(weights) * x**3

    inputs = (x, array) if way == "an argument" else (x,)
    J = hesse.Jacobian(func, inputs, argnums=0)
    torch.testing.assert_close(J @ x, 3 * torch.from_numpy(array) * x**3)
    array *= 5
    with pytest.raises(hesse.StalePointError, match="has changed in place"):
        J @ x
    torch.testing.assert_close(J.at(inputs) @ x, 3 * torch.from_numpy(array) * x**3)


def test_arrays_that_pytorch_does_not_have_are_no_part_of_a_point() -> None:
    arrays = [np.array(["a", "b"]), np.arange(4)[::-1], np.array([None]), np.broadcast_to(2.0, 3), np.array(0, "M8[s]")]
    H = hesse.Hessian(lambda x: (x**3).sum() + len(arrays[0]), torch.ones(2))
    assert torch.equal(H @ torch.ones(2), 6 * torch.ones(2))


@pytest.mark.parametrize("of_variables", [True, False])
def test_a_write_through_data_into_what_input_and_function_share_names_the_input(of_variables: bool) -> None:
    x, other = torch.arange(1.0, 4.0), torch.ones(3)
    H = hesse.Hessian(lambda y: (y**2 * x * other).sum(), x.detach(), engine="tape")
    torch.testing.assert_close(H @ torch.ones(3), 2 * torch.arange(1.0, 4.0))
    (x if of_variables else other).data[1] = 5.0
    with pytest.raises(hesse.StalePointError, match="The input tensor" if of_variables else "captured tensor 'other'"):
        H @ torch.ones(3)


def test_a_replaced_storage_is_noticed() -> None:
    weight = nn.Parameter(torch.ones(3))
    H = hesse.Hessian(lambda x: (weight * x**3).sum(), torch.ones(3))
    weight.data = torch.ones(3)
    with pytest.raises(hesse.StalePointError, match="weight"):
        H @ torch.ones(3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64, torch.complex128])
def test_some_elements_of_a_large_vector_are_compared_by_their_numbers(dtype: torch.dtype) -> None:
    x = torch.zeros(5000, dtype=dtype)
    H = hesse.Hessian(lambda x: (x.abs() ** 2).sum(), x, engine="tape")
    v = torch.ones(H.shape[1], dtype=H.dtype)
    # Other bits of the same numbers; then another, which is the same from then on; then memory that is gone.
    x.data.copy_(torch.full_like(x, -0.0))
    torch.testing.assert_close(H @ v, 2 * v)
    x.data[625] = math.nan
    with pytest.raises(hesse.StalePointError, match="The input tensor"):
        H @ v
    (H := H.at(x)) @ v
    x.untyped_storage().resize_(0)
    with pytest.raises(hesse.StalePointError, match="The input tensor"):
        H @ v


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("is_captured", [True, False])
def test_small_tensors_are_compared_whole_and_by_their_numbers(dtype: torch.dtype, is_captured: bool) -> None:
    x, c = torch.zeros(5, dtype=dtype), torch.zeros(5, dtype=dtype)
    H = hesse.Hessian(lambda x: (x.abs() ** 2 + (x * c).abs() ** 2).sum(), x, engine="tape")
    v = torch.ones(H.shape[1], dtype=H.dtype)
    written = (c if is_captured else x).data
    # Other bits of the same numbers.
    written.copy_(torch.full_like(written, -0.0))
    torch.testing.assert_close(H @ v, 2 * v)
    written[4] = 3.0
    with pytest.raises(hesse.StalePointError, match="captured tensor 'c'" if is_captured else "The input tensor"):
        H @ v


def test_memory_that_was_given_back_is_not_read() -> None:
    x, c = torch.ones(5), torch.ones(5)
    H = hesse.Hessian(lambda x: (x**2 * c).sum(), x, engine="tape")
    c.untyped_storage().resize_(0)
    with pytest.raises(hesse.StalePointError, match="captured tensor 'c'"):
        H @ x


def test_a_changed_tensor_that_python_cannot_reach_is_refused_all_the_same() -> None:
    hidden: list[Tensor] = []

    def func(x: Tensor) -> Tensor:
        hidden.append(x.exp())
        return (hidden[-1] * x).sum()

    H = hesse.Hessian(func, torch.ones(3))
    # Taken out of the list, so that no closure leads to it: only the graph holds it.
    made = hidden.pop()
    with torch.no_grad():
        made.detach().mul_(2)
    with pytest.raises(hesse.StalePointError, match=r"Call at\(inputs\)"):
        H @ torch.ones(3)


def test_nan_that_stays_is_no_change() -> None:
    data = torch.tensor([float("nan"), 1.0])
    H = hesse.Hessian(lambda x: (x**2).sum() + 0 * data[1], torch.ones(2))
    torch.testing.assert_close(H @ torch.ones(2), torch.full((2,), 2.0))


def test_a_dropout_network_has_one_fixed_hessian() -> None:
    model = network(nn.Tanh(), nn.Dropout(0.5)).train()
    torch.manual_seed(3)
    H = hesse.Hessian(loss_of(model), dict(model.named_parameters()))
    before = torch.get_rng_state()
    v = torch.randn(H.shape[1], generator=torch.Generator().manual_seed(1))
    first = H @ v
    torch.testing.assert_close(H @ v, first, rtol=0, atol=0)
    torch.testing.assert_close(H @ v[:, None].expand(-1, 9), first[:, None].expand(-1, 9))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    torch.testing.assert_close(hesse.Hessian(loss_of(model), dict(model.named_parameters())) @ v, first)
    torch.testing.assert_close(H.to_dense(), H.to_dense().mT)


@pytest.mark.parametrize("make", [hesse.vhp, lambda *a: hesse.Hessian(*a[:2])], ids=["vhp", "Hessian"])
def test_generator_and_buffers_advance_as_one_evaluation_does(make: Callable[..., Any]) -> None:
    def state(run: Callable[[nn.Module], Any]) -> tuple[Tensor, ...]:
        model = network(nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
        torch.manual_seed(5)
        run(model)
        return torch.get_rng_state(), model[1].running_mean, model[1].num_batches_tracked

    def ours(model: nn.Module) -> None:
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        make(loss_of(model), parameters, parameters)

    torch.testing.assert_close(state(ours), state(lambda model: model(X)), rtol=0, atol=0)


def test_nothing_of_the_users_is_changed() -> None:
    model = network(nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    model[0].bias.requires_grad_(False)
    parameters = dict(model.named_parameters())
    H = hesse.Hessian(loss_of(model), parameters)
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    buffers = [buffer.clone() for buffer in model.buffers()]
    generator = torch.get_rng_state()
    H @ torch.randn(H.shape[1], 17, generator=torch.Generator().manual_seed(0))
    H @ parameters
    H.to_dense()
    H.explain()
    H.close()
    for parameter, before in zip(model.parameters(), kept, strict=True):
        assert torch.equal(parameter, before)
        assert torch.equal(parameter.grad, torch.full_like(parameter, 7.0))
    torch.testing.assert_close(list(model.buffers()), buffers, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True, True, True]


class Witness(torch.autograd.Function):
    """Lives in the kept graph, so that a weak reference tells whether the graph is still there."""

    seen: weakref.ref[Any]

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * grad


def kept_graph(H: hesse.Hessian) -> weakref.ref[Any]:
    gradient = H._point.term.linearizations[0]._outputs[0]
    return weakref.ref(gradient)


def made() -> hesse.Hessian:
    H = hesse.Hessian(lambda x: Witness.apply(x).sum(), torch.ones(4))
    H @ torch.ones(4)
    H @ torch.ones(4, 20)
    H.explain()
    return H


def test_close_frees_the_graph_and_products_raise() -> None:
    with without_collector():
        H = made()
        graph = kept_graph(H)
        H.close()
        assert graph() is None
    for product in (lambda: H @ torch.ones(4), lambda: H @ torch.ones(4, 2), lambda: H.to_dense()):
        with pytest.raises(hesse.ClosedError, match="closed"):
            product()
    assert H.explain().bytes_kept == 0
    assert H.value.item() == 4.0


def test_leaving_with_frees_the_graph() -> None:
    with without_collector():
        with made() as H:
            graph = kept_graph(H)
            assert graph() is not None
        assert graph() is None


def test_deleting_frees_the_graph_since_there_are_no_cycles() -> None:
    with without_collector():
        H = made()
        graph = kept_graph(H)
        block, shifted = H.block(()), H.shift(1.0)
        del H
        assert graph() is not None
        del block, shifted
        assert graph() is None


def test_the_auxiliary_output_does_not_keep_the_graph_alive() -> None:
    with without_collector():
        H = hesse.Hessian(lambda x: ((y := Witness.apply(x)).sum(), y), torch.ones(4), has_aux=True)
        graph = kept_graph(H)
        aux = H.aux
        del H
        assert graph() is None
        assert aux.shape == (4,)


def test_an_exception_of_the_function_passes_through_unchanged() -> None:
    class Mine(Exception):
        pass

    def func(x: Tensor) -> Tensor:
        raise Mine("as it was")

    with pytest.raises(Mine, match=r"^as it was$"):
        hesse.Hessian(func, torch.ones(2))


def test_a_function_without_a_hessian_is_refused() -> None:
    with pytest.raises(RuntimeError, match="given to Hessian should contain a single element"):
        hesse.Hessian(lambda x: x, torch.ones(2))
    with pytest.raises(RuntimeError, match="given to Hessian should return a single Tensor"):
        hesse.Hessian(lambda x: (x.sum(), x.sum()), torch.ones(2))
    with pytest.raises(RuntimeError, match="should be real"):
        hesse.Hessian(lambda x: x.sum(), torch.ones(2, dtype=torch.complex64))
    with pytest.raises(RuntimeError, match="must be floating-point or complex"):
        hesse.Hessian(lambda x: x.sum(), torch.ones(2, dtype=torch.int64))
    with pytest.raises(TypeError, match="outputs of the function given to Jacobian must be floating-point"):
        hesse.Jacobian(lambda x: x.argmax(), torch.ones(2))


def test_a_write_to_one_element_through_data_or_numpy_is_noticed_in_small_tensors() -> None:
    array = np.ones(40, dtype=np.float32)
    for tensor, write in [
        (t := torch.ones(100), lambda t=t: t.data.__setitem__(1, 7.0)),
        (torch.from_numpy(array), lambda: array.__setitem__(1, 7.0)),
    ]:
        H = hesse.Hessian(lambda x, tensor=tensor: ((x * tensor) ** 2).sum(), torch.ones(tensor.shape))
        write()
        with pytest.raises(hesse.StalePointError, match="tensor"):
            H @ torch.ones(tensor.shape)


def test_values_gradients_and_products_of_different_inputs_share_no_memory() -> None:
    x = torch.ones(2)
    H = hesse.Hessian(lambda x, y: ((x + y) ** 2).sum(), (x, x.clone()))
    H.gradient[0].zero_()
    torch.testing.assert_close(H.gradient[1], torch.full((2,), 4.0))
    first, second = H @ (x, x)
    first.zero_()
    torch.testing.assert_close(second, torch.full((2,), 4.0))
    expanded = hesse.vhp(lambda x: x.sum() ** 2, x, x)[1]
    torch.testing.assert_close(expanded.add_(1), torch.full((2,), 5.0))


def test_a_graph_freed_by_the_users_own_backward_is_named() -> None:
    x = torch.ones(3, requires_grad=True)
    H = hesse.Hessian(lambda x: (x**3).sum(), x, create_graph=True)
    H.gradient.sum().backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        H @ x


def test_columns_are_differentiable_under_no_grad_when_asked_for() -> None:
    x = torch.ones(3, requires_grad=True)
    H = hesse.Hessian(lambda x: (x**3).sum(), x, create_graph=True)
    with torch.no_grad():
        assert (H @ torch.ones(3)).requires_grad
        assert (H @ torch.ones(3, 2)).requires_grad
        assert (H @ torch.ones(3, 20)).requires_grad


# PyTorch's compiler looks at .grad of whatever it finds, and warns of itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_operators_run_eagerly_in_a_compiled_region() -> None:
    x = torch.tensor([1.0, 2.0])

    def product(x: Tensor, v: Tensor) -> Tensor:
        return hesse.Hessian(lambda x: (x**3).sum(), x) @ v

    H = hesse.Hessian(lambda x: (x**3).sum(), x)
    for compiled in (torch.compile(product, backend="eager"), torch.compile(lambda x, v: H @ v, backend="eager")):
        torch.testing.assert_close(compiled(x, torch.ones(2)), 6 * x)


def test_what_has_no_elements_to_compare_is_no_obstacle() -> None:
    lazy, meta = nn.LazyLinear(2), torch.ones(3, device="meta")

    def func(x: Tensor) -> Tensor:
        return (x**3).sum() + 0 * (len(list(lazy.parameters())) + meta.dim())

    torch.testing.assert_close(hesse.Hessian(func, torch.ones(2)) @ torch.ones(2), torch.full((2,), 6.0))


def test_flat_vectors_of_a_sparse_input_are_refused() -> None:
    x = torch.eye(2).to_sparse()
    H = hesse.Hessian(lambda x: (x.to_dense() ** 3).sum(), x)
    with pytest.raises(TypeError, match=r"need dense tensors but the Tensor has layout torch\.sparse_coo"):
        H.to_dense()
