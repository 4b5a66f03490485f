"""Functions whose Hessian is known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .scenario import Case, draw, positive, scenario


@scenario
def cubic() -> Case:
    x = draw(2, 2)
    return Case(lambda x: (x**3).sum(), x, torch.diag(6 * x.reshape(-1)))


@scenario
def quadratic_with_unsymmetric_matrix() -> Case:
    matrix, vector = draw(5, 5), draw(5)
    return Case(lambda x: x @ matrix @ x / 2 + vector @ x, draw(5), (matrix + matrix.T) / 2)


@scenario
def rosenbrock() -> Case:
    x = draw(6)
    left, right = x[:-1], x[1:]
    diagonal = torch.zeros(6, dtype=torch.float64)
    diagonal[:-1] += 1200 * left**2 - 400 * right + 2
    diagonal[1:] += 200
    beside = torch.diag(-400 * left, 1)

    def func(x: Tensor) -> Tensor:
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    return Case(func, x, torch.diag(diagonal) + beside + beside.T)


@scenario
def product_of_entries() -> Case:
    x = positive(5)
    hessian = x.prod() / torch.outer(x, x)
    return Case(lambda x: x.prod(), x, hessian - torch.diag(hessian.diagonal()))


@scenario
def product_with_a_zero() -> Case:
    x, y, z = 2.0, 0.0, 5.0
    hessian = torch.tensor([[0, z, y], [z, 0, x], [y, x, 0]], dtype=torch.float64)
    return Case(lambda x: x.prod(), torch.tensor([x, y, z], dtype=torch.float64), hessian)


@scenario
def linear() -> Case:
    weight = draw(4)
    return Case(lambda x: weight @ x, draw(4), torch.zeros(4, 4))


@scenario
def constant_that_requires_no_gradient() -> Case:
    return Case(lambda x: torch.ones((), dtype=torch.float64), draw(3), torch.zeros(3, 3))


@scenario
def cut_off_by_detach() -> Case:
    # Of a piecewise constant function, so that differences of the value see a zero gradient as well.
    weight = draw(3)
    return Case(lambda x: weight @ x.detach().sign(), draw(3), torch.zeros(3, 3))


@scenario
def independent_second_input() -> Case:
    x = draw(3)
    hessian = torch.zeros(5, 5, dtype=torch.float64)
    hessian[:3, :3] = torch.diag(12 * x**2)
    return Case(lambda x, y: (x**4).sum(), (x, draw(2)), hessian)


@scenario
def second_input_only_linear() -> Case:
    x = draw(3)
    hessian = torch.zeros(5, 5, dtype=torch.float64)
    hessian[:3, :3] = torch.diag(6 * x)
    return Case(lambda x, y: (x**3).sum() + 3 * y.sum(), (x, draw(2)), hessian)


@scenario
def input_used_in_part() -> Case:
    x = draw(6)
    diagonal = torch.zeros(6, dtype=torch.float64)
    diagonal[1:4] = 6 * x[1:4]
    return Case(lambda x: (x.narrow(0, 1, 3) ** 3).sum(), x, torch.diag(diagonal))


@scenario
def two_separate_squares() -> Case:
    diagonal = torch.tensor([4.0] * 3 + [6.0] * 3, dtype=torch.float64)
    return Case(lambda x, y: (2 * x**2 + 3 * y**2).sum(), (draw(3), draw(3)), torch.diag(diagonal))


@scenario
def bilinear_in_two_inputs() -> Case:
    matrix = draw(2, 3)
    hessian = torch.zeros(5, 5, dtype=torch.float64)
    hessian[:2, 2:], hessian[2:, :2] = matrix, matrix.T
    return Case(lambda x, y: x @ matrix @ y, (draw(2), draw(3)), hessian)


@scenario
def exponential_of_an_inner_product() -> Case:
    x, a = draw(4), draw(4)
    return Case(lambda x: torch.exp(a @ x), x, torch.exp(a @ x) * torch.outer(a, a))


@scenario
def log_sum_exp() -> Case:
    x = draw(6)
    p = torch.softmax(x, 0)
    return Case(lambda x: torch.logsumexp(x, 0), x, torch.diag(p) - torch.outer(p, p))


@scenario
def euclidean_norm() -> Case:
    x = draw(5)
    length = torch.linalg.vector_norm(x)
    hessian = (torch.eye(5, dtype=torch.float64) - torch.outer(x, x) / length**2) / length
    return Case(torch.linalg.vector_norm, x, hessian)


@scenario
def log_determinant() -> Case:
    x = draw(3, 3) + 3 * torch.eye(3, dtype=torch.float64)
    inverse = torch.linalg.inv(x)
    # d²/dX_ij dX_kl of log |det X| is -(X⁻¹)_jk (X⁻¹)_li.
    return Case(torch.logdet, x, -torch.einsum("jk,li->ijkl", inverse, inverse).reshape(9, 9))


@scenario
def least_squares() -> Case:
    a, b = draw(7, 4), draw(7)
    return Case(lambda x: ((a @ x - b) ** 2).sum(), draw(4), 2 * a.T @ a)


@scenario
def logistic_regression() -> Case:
    features, labels, w = draw(12, 5), (draw(12) > 0).double(), draw(5)
    p = torch.sigmoid(features @ w)
    hessian = features.T @ ((p * (1 - p))[:, None] * features) / 12 + 0.1 * torch.eye(5, dtype=torch.float64)

    def func(w: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(features @ w, labels) + 0.05 * (w @ w)

    return Case(func, w, hessian)


@scenario
def softmax_regression() -> Case:
    features, labels, w = draw(8, 3), torch.randint(4, (8,)), draw(3, 4)
    p = torch.softmax(features @ w, 1)
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    hessian = torch.einsum("si,sab,sj->iajb", features, curvature, features).reshape(12, 12) / 8
    return Case(lambda w: F.cross_entropy(features @ w, labels), w, hessian)


@scenario
def poisson_regression() -> Case:
    features, counts, w = draw(9, 4), torch.randint(5, (9,)).double(), 0.5 * draw(4)
    rates = torch.exp(features @ w)
    hessian = features.T @ (rates[:, None] * features) / 9
    return Case(lambda w: F.poisson_nll_loss(features @ w, counts), w, hessian)


@scenario
def bernoulli_log_probability() -> Case:
    x = draw(4)
    outcomes = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    p = torch.sigmoid(x)
    return Case(
        lambda x: torch.distributions.Bernoulli(logits=x, validate_args=False).log_prob(outcomes).sum(),
        x,
        torch.diag(-p * (1 - p)),
    )


@scenario
def product_of_powers() -> Case:
    x, y = positive(1), positive(1)
    hessian = torch.tensor([[6 * x * y**2, 6 * x**2 * y], [6 * x**2 * y, 2 * x**3]], dtype=torch.float64)
    return Case(lambda x, y: (x**3 * y**2).sum(), (x, y), hessian)


@scenario
def output_of_shape_1_1_1() -> Case:
    x = draw(3)
    return Case(lambda x: (x**4).sum().reshape(1, 1, 1), x, torch.diag(12 * x**2))


@scenario
def input_without_dimensions() -> Case:
    x = draw()
    return Case(torch.sin, x, -torch.sin(x).reshape(1, 1))


@scenario
def input_of_one_element() -> Case:
    x = draw(1, 1)
    return Case(lambda x: torch.exp(2 * x), x, 4 * torch.exp(2 * x))


@scenario
def angle_of_a_point() -> Case:
    x, y = positive(1), positive(1)
    mixed = y**2 - x**2
    hessian = torch.cat([2 * x * y, mixed, mixed, -2 * x * y]).reshape(2, 2) / (x**2 + y**2) ** 2
    return Case(lambda x, y: torch.atan2(y, x).sum(), (x, y), hessian)
