"""Central differences as a judge of derivatives: cubic, wrong, kinked, jumping and noisy functions."""

from __future__ import annotations

import pytest
import torch

from hesse._checking.differences import differences, scaled
from hesse._checking.subject import Evaluation

X = [torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)]
V = [torch.tensor([0.3, 1.0, -0.7], dtype=torch.float64)]


def judged(value, gradient, product, x=X, v=V):
    """The verdicts on a function given by its value and gradient, with a claimed product."""

    def evaluate(leaves):
        return Evaluation(value(leaves[0]), [gradient(leaves[0])], [True])

    return differences(evaluate, evaluate(x), x, v, [product])


def quartic(x):
    return (x**4).sum()


def quartic_gradient(x):
    return 4 * x**3


def quartic_product(x=X[0], v=V[0]):
    return 12 * x**2 * v


def test_right_derivatives_agree_to_many_digits():
    slope, curvature = judged(quartic, quartic_gradient, quartic_product())
    assert slope.verdict == curvature.verdict == "agrees"
    assert max(slope.error, curvature.error) < 1e-9
    assert curvature.tolerance == pytest.approx(torch.finfo(torch.float64).eps ** (1 / 3))


@pytest.mark.parametrize("factor", [0.0, 1.001, -1.0, 2.0])
def test_a_wrong_product_disagrees_by_as_much_as_it_is_wrong(factor):
    slope, curvature = judged(quartic, quartic_gradient, factor * quartic_product())
    assert slope.verdict == "agrees"
    assert curvature.verdict == "disagrees"
    assert curvature.error == pytest.approx(abs(factor - 1) / max(1, abs(factor)), rel=1e-4)


def test_a_wrong_gradient_disagrees_though_its_own_derivative_is_right():
    slope, curvature = judged(quartic, lambda x: 1.01 * quartic_gradient(x), 1.01 * quartic_product())
    assert slope.verdict == "disagrees"
    assert curvature.verdict == "agrees"


def test_one_small_entry_that_is_wrong_is_found_in_a_leaf_of_its_own():
    x = [torch.tensor([1e2]), torch.tensor([1e-2])]
    x = [leaf.double() for leaf in x]

    def evaluate(leaves):
        a, b = leaves
        return Evaluation((a**3).sum() + (b**3).sum(), [3 * a**2, 3 * b**2], [True, True])

    v = scaled([torch.ones(1, dtype=torch.float64)] * 2, x)
    right = [6 * leaf * along for leaf, along in zip(x, v, strict=True)]
    assert differences(evaluate, evaluate(x), x, v, right)[1].verdict == "agrees"
    wrong = [right[0], 1.5 * right[1]]
    assert differences(evaluate, evaluate(x), x, v, wrong)[1].verdict == "disagrees"


def test_at_a_kink_nothing_is_called_wrong():
    x = [torch.tensor([0.0, 1.0], dtype=torch.float64)]
    v = [torch.ones(2, dtype=torch.float64)]
    _, curvature = judged(
        lambda x: (x.clamp(min=0) + x**3).sum(), lambda x: (x > 0).double() + 3 * x**2, 6 * x[0], x, v
    )
    assert curvature.verdict == "not smooth"


def test_a_kink_nearby_is_stepped_short_of():
    x, v = [torch.tensor([1e-6], dtype=torch.float64)], [torch.ones(1, dtype=torch.float64)]
    slope, curvature = judged(lambda x: (x.abs() ** 3).sum(), lambda x: 3 * x.abs() * x, 6 * x[0].abs(), x, v)
    assert slope.verdict != "disagrees"
    assert curvature.verdict != "disagrees"


def test_noise_is_not_called_wrong():
    generator = torch.Generator().manual_seed(0)

    def noisy(x):
        return quartic_gradient(x) + 1e-4 * torch.randn(x.shape, dtype=x.dtype, generator=generator)

    _, curvature = judged(quartic, noisy, quartic_product())
    assert curvature.verdict in ("not smooth", "agrees")


def test_steps_out_of_the_domain_are_passed_over():
    x, v = [torch.tensor([1e-5, 1.0], dtype=torch.float64)], [torch.ones(2, dtype=torch.float64)]
    slope, curvature = judged(lambda x: x.log().sum(), lambda x: 1 / x, -1 / x[0] ** 2, x, v)
    assert slope.verdict == curvature.verdict == "agrees"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_low_precision_a_right_product_is_never_called_wrong(dtype):
    x, v = [X[0].to(dtype)], [V[0].to(dtype)]
    for verdict in judged(quartic, quartic_gradient, quartic_product(x[0], v[0]), x, v):
        assert verdict.verdict in ("agrees", "too coarse")
        assert verdict.precision is dtype


def test_in_single_precision_a_product_of_double_size_is_called_wrong():
    x, v = [X[0].float()], [V[0].float()]
    assert judged(quartic, quartic_gradient, 2 * quartic_product(x[0], v[0]), x, v)[1].verdict == "disagrees"


def test_at_a_minimum_the_slope_agrees_with_its_zero():
    x, v = [torch.ones(3, dtype=torch.float64)], [torch.tensor([0.3, 1.0, -0.7], dtype=torch.float64)]
    slope, curvature = judged(
        lambda x: ((x - 1) ** 2 + (x - 1) ** 3).sum(), lambda x: 2 * (x - 1) + 3 * (x - 1) ** 2, 2 * v[0], x, v
    )
    assert slope.verdict == curvature.verdict == "agrees"
    assert slope.error < 1e-4


def test_where_the_curvature_vanishes_differences_that_vanish_with_it_agree():
    x, v = [torch.zeros(3, dtype=torch.float64)], [torch.tensor([0.3, 1.0, -0.7], dtype=torch.float64)]
    zero = torch.zeros(3, dtype=torch.float64)
    verdicts = judged(lambda x: (x**3 + x**4).sum(), lambda x: 3 * x**2 + 4 * x**3, zero, x, v)
    assert [found.verdict for found in verdicts] == ["agrees", "agrees"]
    # But not where they do not vanish.
    wrong = judged(lambda x: (x**2 + x**4).sum(), lambda x: 2 * x + 4 * x**3, zero, x, v)
    assert wrong[1].verdict == "disagrees"


def test_where_all_is_zero_zero_agrees():
    zero = torch.zeros(3, dtype=torch.float64)
    slope, curvature = judged(lambda x: x.sum() * 0, lambda x: zero, zero)
    assert slope.verdict == curvature.verdict == "agrees"
    assert slope.error == curvature.error == 0.0


def test_a_direction_moves_every_leaf_in_proportion_to_its_size():
    ones = [torch.ones(4, dtype=torch.float64)] * 3
    x = [torch.full((4,), 1e-10), torch.full((4,), -3e5), torch.zeros(4)]
    small, large, zero = scaled(ones, [leaf.double() for leaf in x])
    torch.testing.assert_close(small, torch.full_like(small, 1e-10))
    torch.testing.assert_close(large, torch.full_like(large, 3e5))
    torch.testing.assert_close(zero, torch.ones_like(zero))
