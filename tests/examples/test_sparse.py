"""The minimal surface: its Hessian against a dense one, and a stationary point with positive curvature."""

from __future__ import annotations

import torch

from .load import example


def test_newton_with_sparse_hessians_finds_the_surface():
    sparse = example("sparse")
    u, surface, norms, H = sparse.minimize(side=8)
    assert len(norms) > 1
    assert norms[-1] <= 1e-8 * norms[0]
    frame = sparse.saddle(10)
    dense = torch.func.hessian(lambda u: sparse.area(u, frame))(u).reshape(64, 64)
    torch.testing.assert_close(H.to_sparse().to_dense(), dense)
    assert float(torch.linalg.eigvalsh(dense).min()) > 0
    assert float(torch.func.grad(lambda u: sparse.area(u, frame))(u).norm()) <= 1e-8 * norms[0]
    assert surface < float(sparse.area(torch.zeros(8, 8, dtype=torch.float64), frame))
    # A height meets its neighbors to the right and below, and those on one diagonal.
    assert int(H.to_sparse().crow_indices().diff().max()) == 7
