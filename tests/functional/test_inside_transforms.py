"""Section 4, row 3: inside vmap, grad, jvp and nests of torch.func's transforms, where PyTorch raises, all works."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap

import hesse
from hesse import functional

from .families import PRODUCTS, each_product
from .references import DOUBLE, assert_values, dense_hessian


def quartic(x: Tensor) -> Tensor:
    """Its third and fourth derivatives couple the entries."""
    return (x**3).sum() * x.sum()


def _expected(x: Tensor, v: Tensor) -> Tensor:
    """Hv in closed form: H = 6 s diag(x) + 3 x² 1ᵀ + 1 (3 x²)ᵀ with s the sum of x."""
    return 6 * x.sum() * x * v + 3 * x**2 * v.sum() + (3 * x**2 * v).sum()


def _point() -> tuple[Tensor, Tensor]:
    return torch.rand(3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)


@each_product
@pytest.mark.parametrize("create_graph", [False, True])
def test_inside_vmap_over_vectors_the_products_are_rows_of_the_hessian(name: str, create_graph: bool) -> None:
    x, _ = _point()
    rows = vmap(lambda v: PRODUCTS[name](quartic, x, v, create_graph)[1])(torch.eye(3, dtype=DOUBLE))
    assert_values(rows, dense_hessian(quartic, (x,)), rtol=1e-6, atol=1e-8)


@each_product
def test_inside_vmap_over_points_each_point_has_its_product(name: str) -> None:
    points, vectors = torch.rand(4, 3, dtype=DOUBLE), torch.rand(4, 3, dtype=DOUBLE)
    outputs, products = vmap(lambda x, v: PRODUCTS[name](quartic, x, v))(points, vectors)
    assert_values(outputs, torch.stack([quartic(x) for x in points]))
    assert_values(products, torch.stack([_expected(x, v) for x, v in zip(points, vectors, strict=True)]))


@each_product
def test_inside_vmap_over_a_captured_tensor_and_a_tuple(name: str) -> None:
    weights, (x, v) = torch.rand(4, 3, dtype=DOUBLE), _point()

    def one(weight: Tensor) -> tuple[Tensor, Tensor]:
        return PRODUCTS[name](lambda a, b: (weight * a**2 * b).sum(), (x, x), (v, v))[1]

    assert_values(vmap(one)(weights), (4 * weights * x * v, 2 * weights * x * v))


@each_product
@pytest.mark.private
def test_inside_grad_by_the_point_the_third_derivatives_are_right(name: str) -> None:
    x, v = _point()
    actual = grad(lambda x: PRODUCTS[name](quartic, x, v)[1].sin().sum())(x)
    expected = torch.autograd.functional.jacobian(lambda x: _expected(x, v).sin().sum(), x)
    assert_values(actual, expected)


@each_product
def test_inside_grad_by_the_vector_and_by_a_captured_tensor(name: str) -> None:
    x, v = _point()
    weight = torch.rand(3, dtype=DOUBLE)

    def total(v: Tensor, weight: Tensor) -> Tensor:
        return PRODUCTS[name](lambda x: (weight * x**3).sum(), x, v)[1].sum()

    assert_values(grad(total, argnums=(0, 1))(v, weight), (6 * weight * x, 6 * x * v))


@each_product
def test_inside_jvp_the_tangents_are_right(name: str) -> None:
    x, v = _point()
    t = torch.rand(3, dtype=DOUBLE)
    product, tangent = jvp(lambda x: PRODUCTS[name](lambda x: (x**4).sum(), x, v)[1], (x,), (t,))
    assert_values(product, 12 * x**2 * v)
    assert_values(tangent, 24 * x * v * t)


@each_product
def test_inside_jvp_by_the_vector(name: str) -> None:
    x, v = _point()
    product, tangent = jvp(lambda v: PRODUCTS[name](quartic, x, v)[1], (v,), (torch.ones_like(v),))
    assert_values((product, tangent), (_expected(x, v), _expected(x, torch.ones_like(v))))


NESTS: dict[str, Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]] = {
    "vmap_of_grad": lambda f: vmap(grad(lambda x: f(x).sum())),
    "vmap_of_vmap": lambda f: lambda x: vmap(vmap(f))(x[None])[0],
    "vmap_of_jacrev": lambda f: vmap(jacrev(f)),
    "vmap_of_jacfwd": lambda f: vmap(jacfwd(f)),
    "jacfwd_of_jacrev": lambda f: vmap(jacfwd(jacrev(f))),
    "vjp_of_vmap": lambda f: lambda x: vjp(vmap(f), x)[1](torch.ones_like(x))[0],
}


@each_product
@pytest.mark.parametrize("nest", NESTS)
def test_inside_nested_transforms_the_product_is_as_differentiable_as_its_closed_form(name: str, nest: str) -> None:
    points, v = torch.rand(2, 3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)
    actual = NESTS[nest](lambda x: PRODUCTS[name](quartic, x, v)[1])(points)
    assert_values(actual, NESTS[nest](lambda x: _expected(x, v))(points))


@each_product
def test_a_product_inside_the_function_of_a_product(name: str) -> None:
    x, v = _point()
    w = torch.rand(3, dtype=DOUBLE)

    def inner(x: Tensor) -> Tensor:
        return PRODUCTS[name](lambda x: (x**4).sum(), x, v, create_graph=True)[1].sum()

    assert_values(PRODUCTS[name](inner, x, w)[1], 24 * v * w)


@each_product
def test_zeros_stand_for_what_is_not_connected_also_inside_a_transform(name: str) -> None:
    vectors = torch.rand(2, 3, dtype=DOUBLE)
    products = vmap(lambda v: PRODUCTS[name](lambda a, b: (a**3).sum(), (v, v), (v, v))[1])(vectors)
    assert_values(products, (6 * vectors**2, torch.zeros_like(vectors)))


@each_product
def test_errors_are_the_same_inside_a_transform(name: str) -> None:
    x, _ = _point()
    with pytest.raises(RuntimeError, match="v has invalid size"):
        vmap(lambda v: PRODUCTS[name](quartic, x, v)[1])(torch.rand(2, 4))
    with pytest.raises(RuntimeError, match="found that the jacobian of the user-provided function"):
        vmap(lambda v: PRODUCTS[name](lambda x: (3 * x).sum(), v, v, strict=True)[1])(torch.rand(2, 3))


def test_inside_jvp_by_the_vector_the_tangents_of_vjp_and_jvp_are_right() -> None:
    x, v = _point()
    for product in (functional.vjp, functional.jvp):
        tangent = jvp(lambda v, product=product: product(torch.exp, x, v)[1], (v,), (torch.ones_like(v),))[1]
        assert_values(tangent, x.exp())


def test_vjp_and_jvp_inside_vmap_and_grad_are_right() -> None:
    points, vectors = torch.rand(4, 3, dtype=DOUBLE), torch.rand(4, 3, dtype=DOUBLE)
    for product in (functional.vjp, functional.jvp):
        actual = vmap(lambda x, v, product=product: product(torch.exp, x, v)[1])(points, vectors)
        assert_values(actual, points.exp() * vectors)
        gradient = grad(lambda x, product=product: product(torch.exp, x, vectors[0])[1].sum())(points[0])
        assert_values(gradient, points[0].exp() * vectors[0])


@pytest.mark.parametrize("vectorize", [False, True])
def test_jacobian_and_hessian_inside_vmap_and_grad_are_right(vectorize: bool) -> None:
    points = torch.rand(4, 3, dtype=DOUBLE)
    blocks = vmap(lambda x: functional.jacobian(torch.exp, x, vectorize=vectorize))(points)
    assert_values(blocks, torch.diag_embed(points.exp()))
    blocks = vmap(lambda x: functional.hessian(quartic, x, vectorize=vectorize))(points)
    expected = torch.stack([dense_hessian(quartic, (x,)) for x in points])
    assert_values(blocks, expected, rtol=1e-6, atol=1e-8)
    trace = grad(lambda x: functional.hessian(lambda x: (x**3).sum(), x, vectorize=vectorize).trace())(points[0])
    assert_values(trace, torch.full((3,), 6.0, dtype=DOUBLE))


@pytest.mark.private
def test_outside_of_transforms_nothing_is_left_of_them() -> None:
    x, v = _point()
    vmap(lambda v: hesse.vhp(quartic, x, v)[1])(torch.eye(3, dtype=DOUBLE))
    output, product = hesse.vhp(quartic, x, v)
    assert output.grad_fn is None
    assert_values(product, _expected(x, v))


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return (torch.sin(x) * x).sum()


def test_torchscript_is_refused_where_its_gradient_is_a_constant_to_a_transform() -> None:
    x, v = _point()
    expected = (2 * x.cos() - x * x.sin()) * v
    for _ in range(2):  # PyTorch optimizes it then
        assert_values(hesse.vhp(scripted, x, v)[1], expected)
    assert_values(vmap(lambda x: hesse.vhp(scripted, x, v)[1])(x[None])[0], expected)
    with pytest.raises(RuntimeError, match="hessian runs TorchScript inside"):
        functional.hessian(scripted, x, vectorize=True, outer_jacobian_strategy="forward-mode")
    with pytest.raises(RuntimeError, match="vjp runs TorchScript"):
        jvp(lambda x: functional.vjp(scripted, x)[1], (x,), (v,))
    # As PyTorch's own; a release in which this fails has mended it.
    assert not jvp(grad(scripted), (x,), (v,))[1].any()
