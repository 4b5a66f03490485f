"""The Hessian operator against dense Hessians by torch.func, which shares no code with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hesse

DOUBLE = torch.float64


def cubic(x: Tensor) -> Tensor:
    return (x**3).sum() + x.prod()


@pytest.fixture
def point() -> Tensor:
    return torch.randn(5, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def dense(point: Tensor) -> Tensor:
    return torch.func.hessian(cubic)(point)


class CountedCalls:
    """A function that counts its evaluations."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.count = function, 0

    def __call__(self, *arguments: Any) -> Any:
        self.count += 1
        return self.function(*arguments)


@pytest.mark.parametrize("batching", ["auto", "loop", "vmap"])
def test_the_function_runs_exactly_once_for_any_number_of_products(point: Tensor, batching: Any) -> None:
    counted = CountedCalls(cubic)
    H = hesse.Hessian(counted, point, batching=batching)
    for _ in range(3):
        H @ point
    H @ torch.randn(5, 40, dtype=DOUBLE)
    H.to_dense()
    H.block(()).to_dense()
    H.explain()
    assert counted.count == 1


def test_the_jacobian_runs_its_function_exactly_once(point: Tensor) -> None:
    counted = CountedCalls(lambda x: x**2)
    J = hesse.Jacobian(counted, point)
    for _ in range(2):
        J @ point
        J.T @ point
    J.to_dense()
    assert counted.count == 1


@pytest.mark.parametrize("batching", ["auto", "loop", "vmap"])
@pytest.mark.parametrize("columns", [0, 1, 2, 7, 8, 9, 40])
@pytest.mark.one_in(4)
def test_columns_are_multiplied_as_by_the_dense_matrix(
    point: Tensor, dense: Tensor, batching: Any, columns: int
) -> None:
    H = hesse.Hessian(cubic, point, batching=batching)
    V = torch.randn(5, columns, dtype=DOUBLE)
    torch.testing.assert_close(H @ V, dense @ V)
    torch.testing.assert_close(H.matmat(V.mT.contiguous().mT), dense @ V)


def test_value_and_gradient_come_from_the_same_run(point: Tensor) -> None:
    H = hesse.Hessian(lambda x: (cubic(x), {"twice": 2 * x}), point, has_aux=True)
    torch.testing.assert_close(H.value, cubic(point))
    torch.testing.assert_close(H.gradient, torch.func.grad(cubic)(point))
    torch.testing.assert_close(H.aux["twice"], 2 * point)
    assert not H.value.requires_grad
    assert not H.gradient.requires_grad
    assert not H.aux["twice"].requires_grad


def test_attributes_describe_the_operator() -> None:
    H = hesse.Hessian(lambda d: (d["a"] ** 2).sum() * d["b"], {"a": torch.ones(2, 3), "b": torch.tensor(2.0)})
    assert H.shape == (7, 7)
    assert H.dtype == torch.float32
    assert H.device == torch.device("cpu")
    assert H.symmetric
    assert not H.positive_semidefinite
    assert H.structure == {"a": ((2, 3), torch.float32), "b": ((), torch.float32)}
    assert "Hessian(shape=(7, 7)" in repr(H)


def test_flatten_and_unflatten_are_inverse_in_the_order_of_leaves() -> None:
    inputs = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(6.0)}
    H = hesse.Hessian(lambda d: (d["a"] ** 2).sum() * d["b"], inputs)
    flat = H.flatten(inputs)
    torch.testing.assert_close(flat, torch.arange(7.0))
    back = H.unflatten(flat)
    torch.testing.assert_close(back, inputs)


@pytest.mark.parametrize("wrong", [torch.ones(6), torch.ones(6, 2), torch.ones(2, 5), torch.ones(5, 1, 1)])
def test_a_vector_of_the_wrong_shape_is_named(point: Tensor, wrong: Tensor) -> None:
    H = hesse.Hessian(cubic, point)
    with pytest.raises(ValueError, match=r"should have shape \(5,\) or \(5, k\) but has"):
        H @ wrong


def test_what_is_no_vector_is_named(point: Tensor) -> None:
    H = hesse.Hessian(cubic, point)
    with pytest.raises(TypeError, match="Hessian must be either a Tensor"):
        H @ "vector"
    with pytest.raises(TypeError, match="should be real"):
        H @ torch.ones(5, 2, dtype=torch.complex128)
    with pytest.raises(ValueError, match="should be on cpu but is on meta"):
        H @ torch.ones(5, 2, device="meta")
    with pytest.raises(ValueError, match=r"should have shape \(5,\) but has \(4,\)"):
        H.unflatten(torch.ones(4))


def test_a_structured_vector_that_does_not_fit_is_named() -> None:
    H = hesse.Hessian(lambda d: (d["a"] ** 2).sum() * d["b"], {"a": torch.ones(2), "b": torch.tensor(2.0)})
    with pytest.raises(RuntimeError, match=r"entry \['b'\] of it is missing"):
        H @ {"a": torch.ones(2)}
    with pytest.raises(RuntimeError, match=r"an entry \['c'\] too many"):
        H @ {"a": torch.ones(2), "b": torch.tensor(1.0), "c": torch.tensor(1.0)}
    with pytest.raises(RuntimeError, match=r"Entry \['a'\] in v has invalid size"):
        H @ {"a": torch.ones(3), "b": torch.tensor(1.0)}
    with pytest.raises(RuntimeError, match=r"Entry \['a'\] in v is on the wrong device: should be cpu but got meta"):
        H @ {"a": torch.ones(2, device="meta"), "b": torch.tensor(1.0)}


@dataclasses.dataclass
class Pair:
    weight: Tensor
    bias: Tensor


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.ones(2), torch.ones(3)),
        [torch.ones(2), torch.ones(3)],
        {"x": torch.ones(2), "y": torch.ones(3)},
        Pair(torch.ones(2), torch.ones(3)),
    ],
    ids=["tuple", "list", "dict", "dataclass"],
)
def test_a_structured_product_has_the_structure_of_the_inputs(inputs: Any) -> None:
    def func(*arguments: Any) -> Tensor:
        if len(arguments) == 2:
            x, y = arguments
        elif isinstance(arguments[0], Pair):
            x, y = arguments[0].weight, arguments[0].bias
        elif isinstance(arguments[0], dict):
            x, y = arguments[0].values()
        else:
            x, y = arguments[0]
        return (x**2).sum() * y.sum()

    product = hesse.Hessian(func, inputs) @ inputs
    assert type(product) is type(inputs)
    # f = |x|² Σy at ones: Hxx v = 2·3·v, Hxy v = 2·Σv, so x gets 6 + 6, y gets 2·2.
    entries = hesse._base.trees.flatten(product)[0]
    torch.testing.assert_close(entries, [torch.full((2,), 12.0), torch.full((3,), 4.0)])


def test_blocks_are_the_blocks_of_the_dense_matrix() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = {"w": torch.randn(2, 3, dtype=DOUBLE, generator=generator), "b": [torch.randn(2, dtype=DOUBLE)]}
    H = hesse.Hessian(lambda d: ((d["w"].sum(1) * d["b"][0]).sin() ** 2).sum() + (d["w"] ** 4).sum(), inputs)
    dense = H.to_dense()
    for rows, columns, expected in [
        ("w", "w", dense[:6, :6]),
        ("w", "b", dense[:6, 6:]),
        ("b", "w", dense[6:, :6]),
        (("b", 0), "w", dense[6:, :6]),
        ("b", None, dense[6:, 6:]),
    ]:
        block = H.block(rows, columns)
        assert block.shape == tuple(expected.shape)
        torch.testing.assert_close(block.to_dense(), expected)
        torch.testing.assert_close(block.T.to_dense(), expected.mT)
        assert block.symmetric == (columns is None or rows == columns)
    mixed = H.block("w", "b") @ [torch.ones(2, dtype=DOUBLE)]
    torch.testing.assert_close(mixed.reshape(-1), dense[:6, 6:].sum(1))


def test_a_block_that_is_not_there_is_named() -> None:
    H = hesse.Hessian(lambda d: (d["w"] ** 2).sum(), {"w": torch.ones(2)})
    with pytest.raises(KeyError, match="has no block 'v': the inputs have w"):
        H.block("v")


def test_argnums_chooses_the_variables(point: Tensor, dense: Tensor) -> None:
    H = hesse.Hessian(lambda name, x, factor: factor * cubic(x), ("unused", point, 2), argnums=1)
    torch.testing.assert_close(H.to_dense(), 2 * dense)


def test_independent_and_linear_inputs_have_zero_products() -> None:
    H = hesse.Hessian(lambda x, y, z: (x**2).sum() + 3 * y.sum(), (torch.ones(2), torch.ones(3), torch.ones(1)))
    product = H @ (torch.ones(2), torch.ones(3), torch.ones(1))
    torch.testing.assert_close(product, (torch.full((2,), 2.0), torch.zeros(3), torch.zeros(1)))
    constant = hesse.Hessian(lambda x: torch.tensor(3.0), torch.ones(2))
    torch.testing.assert_close(constant @ torch.ones(2, 9), torch.zeros(2, 9))
    torch.testing.assert_close(constant.gradient, torch.zeros(2))


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0), (1, 1)])
def test_odd_shapes_work(shape: tuple[int, ...]) -> None:
    x = torch.full(shape, 2.0)
    H = hesse.Hessian(lambda x: (x**3).sum(), x)
    torch.testing.assert_close(H @ torch.ones(shape), torch.full(shape, 12.0))
    torch.testing.assert_close(H.to_dense(), 12.0 * torch.eye(x.numel()))


def test_mixed_dtypes_give_each_leaf_its_own_and_flat_vectors_the_widest() -> None:
    inputs = (torch.full((2,), 2.0), torch.full((2,), 2.0, dtype=DOUBLE))
    H = hesse.Hessian(lambda x, y: (x**3).sum().double() + (y**3).sum(), inputs)
    assert H.dtype == DOUBLE
    single, double = H @ (torch.ones(2), torch.ones(2, dtype=DOUBLE))
    assert (single.dtype, double.dtype) == (torch.float32, DOUBLE)
    torch.testing.assert_close(H @ torch.ones(4, dtype=DOUBLE), torch.full((4,), 12.0, dtype=DOUBLE))
    torch.testing.assert_close(H @ torch.ones(4), torch.full((4,), 12.0, dtype=DOUBLE))


def test_flat_vectors_of_a_bfloat16_point_are_float32() -> None:
    H = hesse.Hessian(lambda x: (x**3).sum(), torch.full((4,), 2.0, dtype=torch.bfloat16))
    assert H.dtype == torch.float32
    assert (H @ torch.ones(4)).dtype == torch.float32
    assert (H @ torch.ones(4, 2)).dtype == torch.float32
    assert H.randn(2, rng=0).dtype == torch.float32
    structured = H @ torch.ones(4, dtype=torch.bfloat16)
    assert structured.dtype == torch.bfloat16
    torch.testing.assert_close(structured, torch.full((4,), 12.0, dtype=torch.bfloat16))


def test_complex_inputs_count_twice_and_flat_vectors_are_real() -> None:
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(3, dtype=torch.complex128, generator=generator)
    v = torch.randn(3, dtype=torch.complex128, generator=generator)

    def func(z: Tensor) -> Tensor:
        return (z**2).real.sum() + z.abs().pow(4).sum()

    def of_pairs(pairs: Tensor) -> Tensor:
        return func(torch.view_as_complex(pairs.reshape(3, 2)))

    H = hesse.Hessian(func, z)
    assert H.shape == (6, 6)
    dense = torch.func.hessian(of_pairs)(torch.view_as_real(z).reshape(-1))
    torch.testing.assert_close(H.to_dense(), dense)
    # PyTorch's convention: the real Hessian of the pairs, applied to the pair (real part, imaginary part) of v.
    flat = dense @ torch.view_as_real(v).reshape(-1)
    torch.testing.assert_close(H @ v, torch.view_as_complex(flat.reshape(3, 2)))
    # For Re z² alone the product is antilinear: H(iv) = −i Hv.
    antilinear = hesse.Hessian(lambda z: (z**2).real.sum(), z)
    torch.testing.assert_close(antilinear @ (1j * v), -1j * (antilinear @ v))


def test_products_are_differentiable_on_request(point: Tensor) -> None:
    x = point.clone().requires_grad_()
    v = torch.ones(5, dtype=DOUBLE, requires_grad=True)
    scale = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    H = hesse.Hessian(lambda x: scale * cubic(x), x, create_graph=True)
    assert H.value.requires_grad
    got = torch.autograd.grad(((H @ v) ** 2).sum() + H.value + H.gradient.sum(), (x, v, scale))

    def by_torch(x: Tensor, v: Tensor, scale: Tensor) -> Tensor:
        def scaled(x: Tensor) -> Tensor:
            return scale * cubic(x)

        product = torch.func.hessian(scaled)(x) @ v
        return (product**2).sum() + scaled(x) + torch.func.grad(scaled)(x).sum()

    torch.testing.assert_close(got, torch.func.grad(by_torch, argnums=(0, 1, 2))(x, v, scale))
    assert torch.autograd.gradcheck(lambda x, v: hesse.Hessian(cubic, x, create_graph=True) @ v, (x, v))
    columns = hesse.Hessian(cubic, x, create_graph=True) @ torch.eye(5, dtype=DOUBLE)[:, :2]
    assert columns.requires_grad


def test_products_have_no_history_unless_asked_for(point: Tensor) -> None:
    v = torch.ones(5, dtype=DOUBLE, requires_grad=True)
    H = hesse.Hessian(cubic, point.clone().requires_grad_())
    assert not (H @ v).requires_grad
    assert not (H @ v.unsqueeze(-1)).requires_grad


def test_products_work_under_no_grad_and_inference_mode(point: Tensor, dense: Tensor) -> None:
    with torch.no_grad():
        H = hesse.Hessian(cubic, point)
        torch.testing.assert_close(H @ point, dense @ point)
    with torch.inference_mode():
        torch.testing.assert_close(H @ point, dense @ point)
        G = hesse.Hessian(cubic, point.clone())
        torch.testing.assert_close((G @ torch.eye(5, dtype=DOUBLE)).clone(), dense)


def test_the_product_never_aliases_the_vector() -> None:
    class Square(torch.autograd.Function):
        """x²/2, whose gradient is x itself, so that autograd would hand v through."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return (x * x).sum() / 2

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return ctx.saved_tensors[0].view_as(ctx.saved_tensors[0])

    v = torch.ones(3)
    product = hesse.Hessian(Square.apply, torch.ones(3)) @ v
    product.mul_(5)
    torch.testing.assert_close(v, torch.ones(3))


def test_an_operator_inside_a_transform_is_refused_in_one_sentence(point: Tensor) -> None:
    with pytest.raises(RuntimeError, match=r"Call hesse\.vhp there"):
        torch.vmap(lambda x: hesse.Hessian(cubic, x) @ x)(torch.randn(2, 3))
    H = hesse.Hessian(cubic, point)
    with pytest.raises(RuntimeError, match="Multiply a matrix of columns"):
        torch.vmap(lambda v: H @ v)(torch.randn(2, 5, dtype=DOUBLE))


@pytest.mark.parametrize("engine", ["tape", "compiled"])
def test_value_and_gradient_that_a_user_changes_in_place_are_read_again(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hesse._linearize.program import backends

    monkeypatch.setattr(backends, "INDUCTOR", backends.EAGER)
    x, y = torch.tensor([0.5, 1.0], dtype=torch.float64), torch.tensor([2.0, -1.0], dtype=torch.float64)
    H = hesse.Hessian(lambda x, y: ((x + y) ** 3).sum() + x.exp().sum(), (x, y), engine=engine)
    # A step downhill, as a loop of Newton's makes it.
    H.gradient[0].neg_()
    H.value.zero_()
    torch.testing.assert_close(H.gradient, (3 * (x + y) ** 2 + x.exp(), 3 * (x + y) ** 2))
    torch.testing.assert_close(H.value, ((x + y) ** 3).sum() + x.exp().sum())
    torch.testing.assert_close((H @ (x, y))[0], 6 * (x + y) ** 2 + x.exp() * x)
