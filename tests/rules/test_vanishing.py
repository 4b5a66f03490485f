"""Norms, deviations and distances that vanish inside of functions that are smooth there: the derivatives of squares."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import hesse
from tests.functional.references import DOUBLE, assert_values, dense_product

from .judge import vectors_like

pytestmark = pytest.mark.usefixtures("uncompiled")

Function = Callable[[Tensor], Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def with_a_zero_row() -> Tensor:
    x = draw(4, 3)
    x[1] = 0
    return x


def with_an_even_row() -> Tensor:
    x = draw(4, 3)
    x[1] = 0.7
    return x


def with_equal_rows(count: int = 4) -> Tensor:
    x = draw(count, 2)
    x[2] = x[0]
    return x


def squares(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances of all pairs."""
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1)


def pairs(x: Tensor) -> Tensor:
    """Squared distances of each pair once."""
    return squares(x, x)[tuple(torch.triu_indices(len(x), len(x), 1))]


def complex_of(x: Tensor) -> Tensor:
    return torch.complex(x[:, 0], x[:, 1])


Y = draw(5, 2)
MANY = draw(40, 2)
SHIFTED = torch.cat((MANY[:5], draw(30, 2, seed=1)))
BATCHES = draw(2, 4, 2)

# A function of norms, the same in squares, and a point at which some vanish.
CASES: dict[str, tuple[Function, Function, Tensor]] = {
    "a norm": (lambda x: x.norm() ** 2, lambda x: x.square().sum(), torch.zeros(3, dtype=DOUBLE)),
    "norms of rows": (
        lambda x: (x.norm(dim=1) ** 2).sin().sum(),
        lambda x: x.square().sum(1).sin().sum(),
        with_a_zero_row(),
    ),
    "norms that are kept": (
        lambda x: torch.linalg.vector_norm(x, dim=(0, 2), keepdim=True).square().sin().sum(),
        lambda x: x.square().sum((0, 2)).sin().sum(),
        torch.stack((with_a_zero_row(), with_a_zero_row())),
    ),
    "a Gaussian of a norm": (
        lambda x: torch.exp(-(torch.linalg.norm(x[1]) ** 2)),
        lambda x: torch.exp(-x[1].square().sum()),
        with_a_zero_row(),
    ),
    "a matrix norm": (
        lambda x: torch.linalg.matrix_norm(x).square() + torch.linalg.norm(x[1]) ** 4,
        lambda x: x.square().sum() + x[1].square().sum() ** 2,
        torch.zeros(2, 2, dtype=DOUBLE),
    ),
    "a distance": (
        lambda x: torch.dist(x[0], Y[0]) ** 2,
        lambda x: (x[0] - Y[0]).square().sum(),
        Y.clone(),
    ),
    "a deviation": (lambda x: x.std() ** 2, lambda x: x.var(), torch.ones(4, dtype=DOUBLE)),
    "a deviation of complex numbers": (
        lambda x: torch.complex(x, 2 * x).std() ** 2,
        lambda x: 5 * x.var(),
        torch.ones(4, dtype=DOUBLE),
    ),
    "in place and of lists": (
        lambda x: (
            x.clone().abs_().square().sum()
            + torch._foreach_abs([x])[0].square().sum()
            + torch._foreach_norm([x[0], x])[0] ** 2
        ),
        lambda x: 2 * x.square().sum() + x[0].square().sum(),
        with_a_zero_row(),
    ),
    "deviations of rows": (
        lambda x: x.std(1).square().sin().sum(),
        lambda x: x.var(1).sin().sum(),
        with_an_even_row(),
    ),
    "deviations and means": (
        lambda x: torch.std_mean(x, dim=1, correction=0)[0].square().sum() + torch.std_mean(x, 1)[1].sin().sum(),
        lambda x: x.var(1, correction=0).sum() + x.mean(1).sin().sum(),
        with_an_even_row(),
    ),
    "moduli": (lambda x: x.abs().square().sin().sum(), lambda x: x.square().sin().sum(), with_a_zero_row()),
    "the logarithm of cosh": (
        lambda x: _log_cosh(x.abs()).sum(),
        lambda x: x.cosh().log().sum(),
        with_a_zero_row(),
    ),
    "complex moduli": (
        lambda x: complex_of(x).abs().square().sin().sum(),
        lambda x: x[:, :2].square().sum(1).sin().sum(),
        with_a_zero_row(),
    ),
    "hypotenuses": (
        lambda x: torch.hypot(x[:, 0], x[:, 1]).square().sin().sum(),
        lambda x: x[:, :2].square().sum(1).sin().sum(),
        with_a_zero_row(),
    ),
    "cdist": (lambda x: torch.cdist(x, Y).square().sin().sum(), lambda x: squares(x, Y).sin().sum(), Y[:3].clone()),
    "a kernel of many points": (
        lambda x: torch.exp(-(torch.cdist(x, MANY) ** 2)).square().sum(),
        lambda x: torch.exp(-squares(x, MANY)).square().sum(),
        SHIFTED,
    ),
    "a kernel of a set of points": (
        lambda x: torch.exp(-(torch.cdist(x, x) ** 2)).square().sum(),
        lambda x: torch.exp(-squares(x, x)).square().sum(),
        with_equal_rows(),
    ),
    "a kernel of many with themselves": (
        lambda x: torch.exp(-(torch.cdist(x, x) ** 2)).square().sum(),
        lambda x: torch.exp(-squares(x, x)).square().sum(),
        with_equal_rows(30),
    ),
    "a kernel of scaled points": (
        lambda x: torch.exp(-(torch.cdist(x / 2, x / 2) ** 2)).square().sum(),
        lambda x: torch.exp(-squares(x / 2, x / 2)).square().sum(),
        with_equal_rows(),
    ),
    "batches of points": (
        lambda x: torch.cdist(x, BATCHES[:, :2]).square().sin().sum(),
        lambda x: squares(x, BATCHES[:, :2]).sin().sum(),
        BATCHES,
    ),
    "pdist": (
        lambda x: torch.exp(-(F.pdist(x) ** 2)).square().sum(),
        lambda x: torch.exp(-pairs(x)).square().sum(),
        with_equal_rows(),
    ),
    "in a checkpoint": (
        lambda x: checkpoint(lambda x: (x.norm(dim=1) ** 2).sin().sum(), x, use_reentrant=False),
        lambda x: x.square().sum(1).sin().sum(),
        with_a_zero_row(),
    ),
}


def _log_cosh(modulus: Tensor) -> Tensor:
    return modulus + F.softplus(-2 * modulus) - torch.log(torch.tensor(2.0, dtype=DOUBLE))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.one_in(4)
def test_products_are_those_of_the_squares(name: str) -> None:
    func, same, x = CASES[name]
    (v,) = vectors_like((x,))
    expected = torch.autograd.functional.vhp(same, x, v)[1]
    (differences,) = dense_product(same, (x,), (v,))
    assert_values(expected, differences, rtol=1e-5, atol=1e-6)
    for product in (hesse.vhp, hesse.hvp):
        assert_values(product(func, x, v)[1], expected)
    for batching in ("loop", "vmap"):
        H = hesse.Hessian(func, x, batching=batching)
        assert_values(H.gradient, torch.autograd.functional.jacobian(same, x))
        assert_values(H @ v, expected)
        rows = H @ torch.stack([v.reshape(-1)] * 20, 1)
        assert_values(rows[:, 7].reshape(x.shape), expected)
    if name == "in a checkpoint":  # torch.func refuses its hooks
        return
    assert_values(hesse.func.hvp(func)(x, v), expected)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        assert_values(torch.vmap(lambda v: hesse.vhp(func, x, v)[1])(v[None])[0], expected)


# Outside of hesse a checkpoint evaluates again without rules.
@pytest.mark.parametrize("name", [name for name in CASES if name != "in a checkpoint"])
def test_third_derivatives_agree_with_differences_of_products(name: str) -> None:
    func, same, x = CASES[name]
    (v,) = vectors_like((x,))

    def slope(func: Function, x: Tensor) -> Tensor:
        product = hesse.vhp(func, x, v, create_graph=True)[1]
        return torch.autograd.grad((product * x).sin().sum(), x)[0]

    point = x.clone().requires_grad_()
    assert_values(slope(func, point), slope(same, point))


def test_parameters_of_the_function_are_differentiated_along() -> None:
    scale = torch.tensor([0.7, 1.3], dtype=DOUBLE)
    x = Y[:3].clone()

    def kernel(x: Tensor, scale: Tensor) -> Tensor:
        return torch.exp(-(torch.cdist(x * scale, Y * scale) ** 2)).square().sum()

    def same(x: Tensor, scale: Tensor) -> Tensor:
        return torch.exp(-squares(x * scale, Y * scale)).square().sum()

    v = vectors_like((x, scale))
    assert_values(hesse.vhp(kernel, (x, scale), v)[1], torch.autograd.functional.vhp(same, (x, scale), v)[1])

    def product(x: Tensor, scale: Tensor) -> Tensor:
        return hesse.vhp(lambda x: kernel(x, scale), x, torch.ones_like(x), create_graph=True)[1]

    assert gradcheck(product, (x.requires_grad_(), scale.requires_grad_()), fast_mode=True)


def test_a_matern_kernel_at_a_data_point_has_its_closed_form() -> None:
    """(1 + √5 d + 5 d²/3) exp(-√5 d) has the second derivative -5/3 at d = 0, in every direction."""

    def matern(x: Tensor) -> Tensor:
        d = 5**0.5 * torch.cdist(x, Y[:1])
        return ((1 + d + d**2 / 3) * torch.exp(-d)).sum()

    dense = hesse.Hessian(matern, Y[:1].clone()).to_dense()
    assert_values(dense, -5 / 3 * torch.eye(2, dtype=DOUBLE))


def test_a_normalized_vector_is_linear_below_its_smallest_length() -> None:
    weights = draw(3)
    dense = hesse.Hessian(lambda x: (F.normalize(x, dim=0, eps=0.5) @ weights) ** 2, torch.zeros(3, dtype=DOUBLE))
    assert_values(dense.to_dense(), 8 * torch.outer(weights, weights))


def test_gradients_inside_of_the_function_are_differentiated_too() -> None:
    def force(energy: Function) -> Function:
        def squared(x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x.clone() if x.requires_grad else x.clone().requires_grad_()
                return torch.autograd.grad(energy(x), x, create_graph=True)[0].square().sum()

        return squared

    func, same, x = CASES["norms of rows"]
    (v,) = vectors_like((x,))
    expected = torch.autograd.functional.vhp(force(same), x, v)[1]
    assert_values(hesse.vhp(force(func), x, v)[1], expected)


KINKS: dict[str, tuple[Function, Tensor, bool]] = {
    "a norm": (lambda x: x.norm(), torch.zeros(3, dtype=DOUBLE), False),
    "an exponential of a norm": (lambda x: torch.exp(-x.norm()), torch.zeros(3, dtype=DOUBLE), False),
    "two norms": (lambda x: x.norm() * x.norm(), torch.zeros(3, dtype=DOUBLE), False),
    "the product of two rows' norms": (lambda x: x.norm(dim=1).prod(), torch.zeros(2, 2, dtype=DOUBLE), False),
    "a sum of norms, squared": (lambda x: x.norm(dim=1).sum() ** 2, torch.zeros(3, 2, dtype=DOUBLE), False),
    "the product of moduli": (lambda x: x.abs().prod() + x.abs()[:2].prod(), torch.zeros(3, dtype=DOUBLE), True),
    "a sum of moduli, squared": (lambda x: x.abs().sum() ** 2, torch.zeros(3, dtype=DOUBLE), True),
    "a hypotenuse": (lambda x: torch.hypot(x[0], x[1]), torch.zeros(2, dtype=DOUBLE), False),
    "moduli": (lambda x: x.abs().sum(), torch.zeros(3, dtype=DOUBLE), True),
    "a deviation": (lambda x: x.std(), torch.ones(3, dtype=DOUBLE), True),
    "distances": (lambda x: torch.cdist(x, Y).exp().sum(), Y[:1].clone(), True),
}


@pytest.mark.parametrize("name", KINKS)
def test_at_kinks_derivatives_are_as_ever(name: str) -> None:
    """No number where PyTorch has none, and zero where that is its convention."""
    func, x, is_zero = KINKS[name]
    product = hesse.vhp(func, x, torch.ones_like(x))[1]
    if name == "distances":
        others = lambda x: squares(x, Y[1:]).sqrt().exp().sum()  # noqa: E731  # a function in one line
        assert_values(product, torch.autograd.functional.vhp(others, x, torch.ones_like(x))[1])
    else:
        assert not product.any() if is_zero else product.isnan().all()


# Scaled points are two tensors, each point at distance zero from itself: the tape serves everywhere.
@pytest.mark.parametrize("name", [name for name in CASES if name != "a kernel of scaled points"])
@pytest.mark.one_in(13)
def test_programs_leave_points_with_zeros_to_the_tape(name: str) -> None:
    func, same, x = CASES[name]
    (v,) = vectors_like((x,))
    elsewhere = x + draw(*x.shape, seed=3)
    # Compared with the tape at the first point only.
    H = hesse.Hessian(func, elsewhere, engine="compiled", verify=False)
    assert H.explain().engine == "compiled"
    with pytest.warns(UserWarning, match="The tape serves where the function takes a norm"):
        at_zeros = H.at(x)
    assert at_zeros.explain().engine == "tape"
    assert "by the tape at 1 point or batch" in str(at_zeros.explain())
    assert_values(at_zeros @ v, torch.autograd.functional.vhp(same, x, v)[1])
    back = at_zeros.at(elsewhere)
    assert back.explain().engine == "compiled"
    assert back.explain().programs == 1


def test_a_program_made_where_there_are_zeros_serves_elsewhere() -> None:
    func, same, x = CASES["norms of rows"]
    (v,) = vectors_like((x,))
    elsewhere = draw(*x.shape, seed=3)
    with pytest.warns(UserWarning, match="The tape serves"):
        H = hesse.Hessian(func, x, engine="compiled", verify=False)
    assert_values(H @ v, torch.autograd.functional.vhp(same, x, v)[1])
    H = H.at(elsewhere)
    assert H.explain().engine == "compiled"
    assert H.explain().programs == 1
    assert_values(H @ v, torch.autograd.functional.vhp(same, elsewhere, v)[1])


@pytest.mark.parametrize("memory", [None, "6KiB"])
@pytest.mark.one_in(2)
def test_zeros_in_a_later_batch_are_seen(memory: str | None) -> None:
    x, w = draw(12, 3, seed=4), draw(3, 2, seed=5)
    x[5], x[9] = x[6], 0

    def lengths(y: Tensor, _: Tensor) -> Tensor:
        return (y.norm(dim=1) ** 2).sin().mean() + torch.exp(-(torch.cdist(y, y) ** 2)).mean()

    def same(w: Tensor, batch: Tensor) -> Tensor:
        y = batch @ w.mT
        return y.square().sum(1).sin().mean() + torch.exp(-squares(y, y)).mean()

    batches = x.split(4)
    data = [(batch, batch) for batch in batches]
    model = torch.nn.Linear(3, 2, bias=False, dtype=DOUBLE)
    with torch.no_grad():
        model.weight.copy_(w.mT)
    H = hesse.LossHessian(model, lengths, data, reduction="mean", weight=len, engine="compiled", memory=memory)
    with pytest.warns(UserWarning, match="The tape serves"):
        dense = H @ torch.eye(6, dtype=DOUBLE)
    expected = torch.autograd.functional.hessian(lambda w: sum(same(w, batch) for batch in batches) / 3, w.mT)
    assert_values(dense, expected.reshape(6, 6))


def test_a_function_that_draws_goes_on_from_where_it_was() -> None:
    def func(x: Tensor) -> Tensor:
        return (F.dropout(x, 0.5) + x).norm(dim=1).square().sum()

    drawn, states = [], []
    for engine in ("compiled", "tape"):
        torch.manual_seed(0)
        H = hesse.Hessian(func, draw(4, 3), engine=engine, verify=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drawn.append(H.at(with_a_zero_row()) @ torch.ones(12, dtype=DOUBLE))
        states.append(torch.get_rng_state())
    assert_values(drawn[0], drawn[1])
    assert torch.equal(states[0], states[1])


def test_buffers_change_once() -> None:
    count = torch.zeros(1, dtype=DOUBLE)

    def func(x: Tensor) -> Tensor:
        count.add_(1)
        return (x.norm(dim=1) ** 2).sin().sum()

    H = hesse.Hessian(func, draw(4, 3), engine="compiled", verify=False)
    with pytest.warns(UserWarning, match="The tape serves"):
        H.at(with_a_zero_row())
    assert count == 2


COMPOSITES: dict[str, Function] = {
    "absolute": lambda x: torch.absolute(x).square().sum(),
    "l1 loss": lambda x: F.l1_loss(x, torch.zeros_like(x), reduction="none").square().sum(),
    "pairwise distance": lambda x: F.pairwise_distance(x, torch.zeros_like(x), eps=0.0).square().sum(),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_norms_within_composed_operators_are_seen_by_transforms(name: str) -> None:
    func, x, v = COMPOSITES[name], with_a_zero_row(), draw(4, 3, seed=3)
    assert_values(torch.func.jvp(hesse.func.grad(func), (x,), (v,))[1], 2 * v)
    assert_values(torch.vmap(lambda v: hesse.vhp(func, x, v)[1])(v[None])[0], 2 * v)
    assert_values(torch.func.grad(lambda w: (hesse.vhp(func, x, w)[1] * v).sum())(v), 2 * v)


EMPTY: dict[str, Function] = {
    "norms": lambda x: torch.linalg.vector_norm(x[:, :0], dim=1),
    "a norm": lambda x: x[:0].norm(),
    "a distance": lambda x: torch.dist(x[:0], x[1:1]),
    "pairwise distances": lambda x: F.pairwise_distance(x[:, :0], x[:, :0], eps=0.0),
}


@pytest.mark.parametrize("name", EMPTY)
def test_norms_of_nothing_are_constants(name: str) -> None:
    func, x = EMPTY[name], draw(4, 3)
    for product in (hesse.vhp, hesse.hvp):
        assert_values(product(lambda x: (func(x) * x[:, 0].sin()).sum() + (x**3).sum(), x, x)[1], 6 * x * x)


def test_kinks_are_no_zeros_that_a_program_needs_to_see() -> None:
    """The gradient of a sum of moduli is a sign, whatever is zero."""
    H = hesse.Hessian(lambda x: x.abs().sum() + (x**3).sum(), with_a_zero_row(), engine="compiled")
    assert H.explain().engine == "compiled"
    assert_values(H @ torch.ones(12, dtype=DOUBLE), 6 * with_a_zero_row().reshape(-1))


FIXED = torch.cat((MANY[:3], draw(30, 2, seed=7)))

# Functions of batches of vmap, the same in squares.
BATCHED: dict[str, tuple[Function, Function]] = {
    "norms": (lambda x: torch.vmap(lambda r: (r.norm() ** 2).sin())(x).sum(), lambda x: x.square().sum(1).sin().sum()),
    "norms along another dimension": (
        lambda x: torch.vmap(lambda r: (torch.linalg.norm(r) ** 2).sin(), in_dims=1)(x.mT).sum(),
        lambda x: x.square().sum(1).sin().sum(),
    ),
    "moduli, twice": (
        lambda x: torch.vmap(torch.vmap(lambda r: (r.abs() ** 2).sin()))(x).sum(),
        lambda x: x.square().sin().sum(),
    ),
    "deviations": (lambda x: torch.vmap(lambda r: (r.std() ** 2).sin())(x).sum(), lambda x: x.var(1).sin().sum()),
    "hypotenuses": (
        lambda x: torch.vmap(lambda r: torch.hypot(r[0], r[1]) ** 2)(x).sin().sum(),
        lambda x: x[:, :2].square().sum(1).sin().sum(),
    ),
    "a kernel": (
        lambda x: torch.vmap(lambda r: torch.vmap(lambda y: torch.exp(-((r[:2] - y).norm() ** 2)))(FIXED))(x).sum(),
        lambda x: torch.exp(-squares(x[:, :2], FIXED)).sum(),
    ),
    "cdist": (
        lambda x: torch.vmap(lambda r: torch.exp(-(torch.cdist(r[None, :2], FIXED[:5]) ** 2)).sum())(x).sum(),
        lambda x: torch.exp(-squares(x[:, :2], FIXED[:5])).sum(),
    ),
    "cdist of many points": (
        lambda x: torch.vmap(lambda r: torch.exp(-(torch.cdist(r.expand(30, 3)[:, :2], FIXED) ** 2)).mean(0).sum())(
            x
        ).sum(),
        lambda x: torch.exp(-squares(x[:, :2], FIXED)).sum(),
    ),
    "pdist": (
        lambda x: torch.vmap(lambda r: F.pdist(torch.stack([r, 2 * r])) ** 2)(x).sin().sum(),
        lambda x: x.square().sum(1).sin().sum(),
    ),
    "rectified norms": (
        lambda x: torch.vmap(lambda r: (F.relu(r.norm()) ** 2).sin())(x).sum(),
        lambda x: x.square().sum(1).sin().sum(),
    ),
}


def with_zero_and_even_rows() -> Tensor:
    x = with_a_zero_row()
    x[0, :2] = FIXED[0]
    x[2] = 0.7
    return x


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.private
@pytest.mark.one_in(4)
def test_batches_of_vmap_inside_of_the_function_are_seen(name: str) -> None:
    func, same = BATCHED[name]
    x = with_zero_and_even_rows()
    (v,) = vectors_like((x,))
    expected = torch.autograd.functional.vhp(same, x, v)[1]
    for product in (hesse.vhp(func, x, v)[1], hesse.hvp(func, x, v)[1], hesse.func.hvp(func)(x, v)):
        assert_values(product, expected)
    rows = hesse.Hessian(func, x, batching="vmap") @ torch.stack([v.reshape(-1)] * 20, 1)
    assert_values(rows[:, 7].reshape(x.shape), expected)


def test_programs_of_batches_leave_zeros_to_the_tape() -> None:
    func, same = BATCHED["norms"]
    x = with_a_zero_row()
    (v,) = vectors_like((x,))
    H = hesse.Hessian(func, draw(4, 3, seed=3), engine="compiled", verify=False)
    with pytest.warns(UserWarning, match="The tape serves"):
        assert_values(H.at(x) @ v, torch.autograd.functional.vhp(same, x, v)[1])


def test_a_batch_of_points_is_pytorchs() -> None:
    """Its zeros cannot be seen: this is in docs/limits.md."""
    func, _, x = CASES["moduli"]
    rows = torch.vmap(lambda x: hesse.vhp(func, x, torch.ones_like(x))[1])(x)
    assert not rows[1].any()


def test_pytorchs_own_are_zero_or_no_number() -> None:
    for name, (func, _, x) in CASES.items():
        if name != "in a checkpoint":
            (v,) = vectors_like((x,))
            try:
                theirs = torch.autograd.functional.vhp(func, x, v)[1]
            except RuntimeError:  # some releases have no second derivative of cdist
                continue
            assert not torch.allclose(theirs, hesse.vhp(func, x, v)[1]), name


@pytest.mark.parametrize("name", ["two moduli", "an inner gradient"])
def test_what_is_not_seen_is_found_by_check(name: str) -> None:
    def two(x: Tensor) -> Tensor:
        return (x.abs() + F.softplus(-2 * x.abs())).sum()

    def inner(x: Tensor) -> Tensor:
        return torch.vmap(torch.func.grad(lambda row: row.abs().square().sum().sin()))(x).square().sum()

    (finding,) = hesse.check({"two moduli": two, "an inner gradient": inner}[name], with_a_zero_row(), rng=0).findings
    assert finding.kind == "wrong"
    assert finding.operator in ("Abs", "torch.abs")
    assert "x**2 for abs(x)**2" in finding.remedy


def test_autocast_chooses_the_precision_of_a_distance() -> None:
    x = draw(4, 3).float()
    dtypes = []

    def func(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = x @ torch.eye(3)
            distance = torch.cdist(y, y[:1])
            dtypes.append((y.dtype, distance.dtype))
        return distance.square().sum()

    rounded = x.bfloat16().float()
    expected = (rounded - rounded[:1]).square().sum()
    assert_values(hesse.vhp(func, x, torch.ones_like(x))[0], expected, rtol=1e-5, atol=1e-5)
    assert dtypes == [(torch.bfloat16, torch.float32)]


@pytest.mark.private
def test_a_traced_function_has_no_values_to_ask_for() -> None:
    x, v = draw(4, 3), draw(4, 3, seed=1)
    func, same, _ = CASES["norms of rows"]
    traced = make_fx(lambda x: hesse.vhp(func, x, v)[1])(x)
    y = draw(4, 3, seed=2)
    assert_values(traced(y), torch.autograd.functional.vhp(same, y, v)[1])


def test_moduli_of_sparse_tensors_are_pytorchs() -> None:
    x = draw(3)

    def sparse(x: Tensor) -> Tensor:
        return torch.sparse_coo_tensor(torch.arange(3)[None], x).abs().to_dense().square().sum()

    # The modulus is a sparse tensor again, which PyTorch up to 2.11 warns of unless the checks are chosen for all.
    with torch.sparse.check_sparse_tensor_invariants():
        assert_values(hesse.functional.vjp(sparse, x)[1], 2 * x)
        assert_values(hesse.functional.vjp(sparse, torch.zeros_like(x))[1], torch.zeros_like(x))
