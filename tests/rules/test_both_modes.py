"""Reverse mode over ``torch.func.jvp``, ``jacfwd`` and ``linearize`` that a function calls itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, jvp, linearize
from torch.nn import functional as F

import hesse

Map = Callable[[Tensor], Tensor]


def _matrix(x: Tensor) -> Tensor:
    return x @ x.mT + 3 * torch.eye(4, dtype=x.dtype) + x


def _complex_matrix(x: Tensor) -> Tensor:
    return torch.complex(_matrix(x), x.mT)


# Rows with no, one, two and three of them.
ZEROS = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]])

MAPS: dict[str, Map] = {
    "product": lambda x: (ZEROS[1] * x[1]).prod() + (ZEROS[2] * x[1]).sin().prod(),
    "products": lambda x: torch.prod(ZEROS * x.sin(), 1, keepdim=True) + (ZEROS.T * x).prod(0),
    "cumulated products": lambda x: (ZEROS * x).cumprod(1) + (ZEROS * x).clone().cumprod_(0).sin(),
    "layer norm": lambda x: F.layer_norm(x, (4,), x[0], x[1]),
    "batch norm": lambda x: F.batch_norm(x, None, None, x[0], x[1], training=True),
    "instance norm": lambda x: F.instance_norm(x[None]),
    "solve": lambda x: torch.linalg.solve(_matrix(x), x),
    "solve from the right": lambda x: torch.linalg.solve(_complex_matrix(x), x + 0j, left=False).abs(),
    "solve for a vector": lambda x: torch.linalg.solve(_matrix(x), x[0]),
    "det": lambda x: torch.linalg.det(_matrix(x)) / 100,
    "det, singular": lambda x: torch.linalg.det(x * torch.tensor([[1.0], [1.0], [1.0], [0.0]])),
    "slogdet": lambda x: torch.linalg.slogdet(_complex_matrix(x))[0].real + torch.logdet(_matrix(x)),
    "cholesky inverse": lambda x: torch.cholesky_inverse(_matrix(x).tril()),
    "cholesky inverse, upper": lambda x: torch.cholesky_inverse(_matrix(x).triu(), upper=True),
    "householder product": lambda x: torch.linalg.householder_product(x[:, :3], x[3, :3]),
}


@pytest.fixture
def point() -> Tensor:
    return torch.linspace(-1, 1.3, 16, dtype=torch.float64).reshape(4, 4).cos() + torch.eye(4, dtype=torch.float64) / 3


@pytest.mark.private
@pytest.mark.parametrize("name", MAPS)
def test_a_product_over_forward_mode_is_that_of_differences(name: str, point: Tensor) -> None:
    v = torch.linspace(0.3, -0.7, 16, dtype=torch.float64).reshape(4, 4).sin()

    def value(x: Tensor) -> Tensor:
        return (MAPS[name](x) * 1.3).sin().sum()

    def along(x: Tensor) -> Tensor:
        return jvp(value, (x,), (x.cos(),))[1]

    def difference(x: Tensor) -> Tensor:
        """The same without forward mode: central differences of the value, of sixth order."""
        h = 2e-3
        ahead = [value(x + k * h * x.cos()) - value(x - k * h * x.cos()) for k in (1, 2, 3)]
        return (45 * ahead[0] - 9 * ahead[1] + ahead[2]) / (60 * h)

    # Both sides are differentiated by the same engine, but only one of them through forward mode.
    _, gradient = hesse.functional.vjp(along, point)
    _, expected = hesse.functional.vjp(difference, point)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)
    _, product = hesse.vhp(along, point, v)
    _, expected = hesse.vhp(difference, point, v)
    torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-6)


def _through_linearize(x: Tensor) -> Tensor:
    output, tangent = linearize(lambda z: {"b": z.sin() * z.sum(), "a": (z**3 * x,)}, x.cos())
    along = tangent(x)
    return (along["b"] * output["a"][0]).sum() + along["a"][0].sum()


def _written_out(x: Tensor) -> Tensor:
    z = x.cos()
    b = z.cos() * x * z.sum() + z.sin() * x.sum()
    return (b * z**3 * x).sum() + (3 * z**2 * x * x).sum()


@pytest.mark.private
@pytest.mark.parametrize("engine", ["tape", "compiled"])
def test_a_linearization_by_torch_depends_on_its_point(engine: str) -> None:
    x = torch.tensor([0.3, -0.5, 1.1], dtype=torch.float64)
    expected = torch.autograd.functional.hessian(_written_out, x)
    H = hesse.Hessian(_through_linearize, x, engine=engine)
    torch.testing.assert_close(H.to_dense(), expected)
    torch.testing.assert_close(hesse.hvp(_through_linearize, x, x)[1], expected @ x)
    torch.testing.assert_close(hesse.func.hvp(_through_linearize)(x, x), expected @ x)


def test_a_linearization_by_torch_may_be_batched_and_write_in_place() -> None:
    def square(z: Tensor) -> Tensor:
        return z.clone().mul_(z.sin())

    def func(x: Tensor) -> Tensor:
        jacobian = torch.vmap(linearize(square, x)[1])(torch.eye(3, dtype=x.dtype))
        return (jacobian**2).sum() + (jacfwd(square)(x) * x).sum()

    def expected(x: Tensor) -> Tensor:
        slope = x.sin() + x * x.cos()
        return (slope**2).sum() + (slope * x).sum()

    x = torch.tensor([0.3, -0.5, 1.1], dtype=torch.float64)
    torch.testing.assert_close(hesse.Hessian(func, x).to_dense(), torch.autograd.functional.hessian(expected, x))


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")  # PyTorch's own
def test_outside_of_hesse_torch_linearizes_as_it_does() -> None:
    calls = []

    def func(x: Tensor) -> Tensor:
        calls.append(None)
        return x.sin()

    x = torch.tensor([0.3, -0.5])
    _, tangent = linearize(func, x)
    evaluations = len(calls)
    torch.testing.assert_close(tangent(x), x.cos() * x)
    assert len(calls) == evaluations
