"""A minimization that was stopped goes on from its checkpoint with the digits of one that was not."""

from __future__ import annotations

import pytest
import torch

import hesse

DOUBLE = torch.float64


def residuals(p):
    a, b = p
    return torch.cat([10 * (a[1:] - a[:-1] ** 2), 1 - a[:-1], (b - a.sum())[None]])


def func(p):
    return residuals(p).square().sum()


START = [torch.linspace(-1, 1.5, 12, dtype=DOUBLE), torch.tensor(3.0, dtype=DOUBLE)]
SHORT = [torch.linspace(-1, 1.5, 3, dtype=DOUBLE), torch.tensor(3.0, dtype=DOUBLE)]


def ask(method, path=None, stop=10**9, start=START, **words):
    f = residuals if method == "levenberg-marquardt" else func
    words = {"tol": 1e-9, **words}
    evaluated = []

    def counted(p):
        evaluated.append(1)
        return f(p)

    found = hesse.minimize(
        counted, start, method=method, checkpoint=path, callback=lambda p: p.num_products >= stop, **words
    )
    return found, len(evaluated)


@pytest.mark.parametrize(
    ("start", "stops"),
    [pytest.param(SHORT, 1, id="1"), pytest.param(START, 7, id="7", marks=pytest.mark.exhaustive)],
)
@pytest.mark.parametrize("method", ["newton", "levenberg-marquardt", "sparse-newton"])
def test_it_goes_on_with_the_same_digits_wherever_it_was_stopped(method, start, stops, tmp_path):
    whole, evaluations = ask(method, start=start)
    assert whole.converged
    for stop in range(whole.num_products // (stops + 1), whole.num_products, whole.num_products // (stops + 1)):
        path = hesse.Checkpoint(tmp_path / f"state{stop}", seconds=0)
        first, _ = ask(method, path, stop, start)
        if first.converged:  # the step that the callback would have stopped was the last
            assert first.num_products == whole.num_products
            continue
        assert first.message == "The callback stopped the search."
        # Writes no more: each writing waits for the disk.
        again, made = ask(method, hesse.Checkpoint(path.path), start=start)
        assert all(torch.equal(*pair) for pair in zip(again.x, whole.x, strict=True))
        assert (again.fun, again.grad_norm) == (whole.fun, whole.grad_norm)
        assert (again.nit, again.nfev, again.num_products) == (whole.nit, whole.nfev, whole.num_products)
        # Taken steps are not evaluated again; the first point is, for the fingerprint, and the one where it goes on.
        assert made <= evaluations - first.nit + 3


def test_a_checkpoint_of_another_start_method_or_function_is_refused(tmp_path):
    path = hesse.Checkpoint(tmp_path / "state", seconds=0)
    ask("newton", path, 5)
    content = path.path.read_bytes()
    with pytest.raises(hesse.CheckpointError, match="was written with method newton, not levenberg-marquardt"):
        ask("levenberg-marquardt", path)
    with pytest.raises(hesse.CheckpointError, match=r"was written with tol 1e-09, not 0\.001"):
        ask("newton", path, tol=1e-3)
    with pytest.raises(hesse.CheckpointError, match=r"was written with x0 [0-9a-f]+, not [0-9a-f]+"):
        hesse.minimize(func, [START[0] + 1, START[1]], tol=1e-9, checkpoint=path)
    with pytest.raises(hesse.CheckpointError, match="was written for another operator, or at another point of it"):
        hesse.minimize(lambda p: 2 * func(p), START, tol=1e-9, checkpoint=path)
    assert path.path.read_bytes() == content


def test_a_checkpoint_of_another_pattern_is_refused(tmp_path):
    path = hesse.Checkpoint(tmp_path / "state", seconds=0)
    size = sum(part.numel() for part in SHORT)
    full = torch.ones(size, size, dtype=torch.bool)
    first, _ = ask("sparse-newton", path, 1, SHORT, pattern=full)
    content = path.path.read_bytes()
    apart = full.clone()
    apart[0, -1] = apart[-1, 0] = False
    with pytest.raises(hesse.CheckpointError, match=r"was written with pattern \['[0-9a-f]+', '[0-9a-f]+'\], not \["):
        ask("sparse-newton", path, start=SHORT, pattern=apart)
    assert path.path.read_bytes() == content
    # The same places, given in another way.
    again, _ = ask("sparse-newton", path, start=SHORT, pattern=full.double().to_sparse())
    assert again.num_products > first.num_products


def test_a_checkpoint_of_a_function_with_another_linear_term_is_refused(tmp_path):
    path = hesse.Checkpoint(tmp_path / "state", seconds=0)
    ask("newton", path, 20)
    content = path.path.read_bytes()
    with pytest.raises(hesse.CheckpointError, match="was written for another function, and is left as it is"):
        hesse.minimize(lambda p: func(p) + p[0].sum() / 1000, START, tol=1e-9, checkpoint=path)
    assert path.path.read_bytes() == content
