"""The Hessian of Rosenbrock's function of a million variables: a plain function, no network.

python examples/rosenbrock.py
hesse spectrum examples/rosenbrock.py --top 5 --bottom 5 --probes 2
"""

import torch

import hesse


def rosenbrock(x):
    """Σ 100·(x[i+1] − x[i]²)² + (1 − x[i])²."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def problem(n=1_000_000):
    """At a random point, where the largest curvatures stand apart from each other."""
    return hesse.Problem(func=rosenbrock, inputs=torch.randn(n, generator=torch.Generator().manual_seed(0)))


def tridiagonal(x, v):
    """The same product by the Hessian's entries, worked out by hand."""
    diagonal = torch.zeros_like(x)
    diagonal[:-1] = 1200 * x[:-1] ** 2 - 400 * x[1:] + 2
    diagonal[1:] += 200
    beside = -400 * x[:-1]
    product = diagonal * v
    product[:-1] += beside * v[1:]
    product[1:] += beside * v[:-1]
    return product


if __name__ == "__main__":
    at = problem()
    H = hesse.Hessian(at.func, at.inputs)
    v = torch.randn(H.shape[1], generator=torch.Generator().manual_seed(1))
    expected = tridiagonal(at.inputs, v)
    print(f"{H.shape[1]} variables, value {H.value:.6g}")
    print(f"relative difference to the entries worked out by hand: {(H @ v - expected).norm() / expected.norm():.1e}")
    top = hesse.eigsh(H, k=3, which="LA", rng=0)
    print("largest curvatures:", ", ".join(f"{value:.1f}" for value in top.values.tolist()))
    print(f"{top.num_products} products, converged: {top.converged}")
