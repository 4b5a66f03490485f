"""Whole matrices: against closed forms and torch.func in float64, and how many products they take."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import hesse
from hesse._linearize.protocol import Selection
from hesse._operators import materialize


def energy(parts: dict[str, Tensor]) -> Tensor:
    """Couples all three parts, and each with itself."""
    inner = (parts["a"].sin() @ parts["b"].exp()).tanh()
    return inner.pow(2).sum() + (parts["c"] ** 3).sum() * inner.sum() + parts["c"].prod()


def point(*lengths: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = {"a": (lengths[0], lengths[1]), "b": (lengths[1], lengths[2]), "c": (lengths[3],)}
    return {name: torch.rand(size, generator=generator, dtype=torch.float64) for name, size in sizes.items()}


def reference(x: dict[str, Tensor]) -> Tensor:
    blocks = torch.func.hessian(energy)(x)
    return torch.cat([torch.cat([blocks[i][j].reshape(x[i].numel(), -1) for j in x], dim=1) for i in x])


@pytest.mark.parametrize("lengths", [(2, 3, 2, 1), (10, 8, 9, 70), (8, 8, 8, 2), (2, 3, 40, 100)])
@pytest.mark.parametrize("batching", ["loop", "vmap", "auto"])
@pytest.mark.one_in(5)
def test_the_matrix_of_several_leaves_is_right_in_every_order(
    lengths: tuple[int, ...], batching: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = point(*lengths)
    H = hesse.Hessian(energy, x, batching=batching)
    expected = reference(x)
    torch.testing.assert_close(H.to_dense(), expected)
    orders = itertools.permutations(materialize._in_order(H.domain.lengths))
    for order in orders:
        monkeypatch.setattr(materialize, "_in_order", lambda lengths, order=order: list(order))
        torch.testing.assert_close(H.to_dense(), expected)


def test_each_pair_of_groups_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    H = hesse.Hessian(energy, point(10, 8, 9, 70), batching="loop")
    monkeypatch.setattr(materialize, "_in_order", materialize._groups)
    asked: list[Selection] = []
    replay = H._point.term.linearizations[0].rmatvec
    monkeypatch.setattr(
        H._point.term.linearizations[0],
        "rmatvec",
        lambda *given, **named: asked.append(given[1]) or replay(*given, **named),
    )
    H.to_dense()
    rows = [80, 72, 70]
    assert asked == [
        Selection((leaf,), tuple(range(leaf, 3))) for leaf, number in enumerate(rows) for _ in range(number)
    ]


def test_blocks_are_whole_matrices_too() -> None:
    x = point(10, 8, 9, 70)
    H, expected = hesse.Hessian(energy, x, memory="1GiB"), reference(x)
    torch.testing.assert_close(H.block("b").to_dense(), expected[80:152, 80:152])
    torch.testing.assert_close(H.block("a", "c").to_dense(), expected[:80, 152:])
    torch.testing.assert_close(H.block("c", "a").to_dense(), expected[152:, :80])


@pytest.mark.parametrize(("m", "n"), [(3, 90), (90, 3), (70, 70)])
def test_a_jacobian_of_several_outputs_is_right_by_rows_and_by_columns(m: int, n: int) -> None:
    A = torch.randn(m, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    J = hesse.Jacobian(lambda x: ((A @ x).sin(), (A @ x) ** 2), x)
    expected = torch.cat([(A @ x).cos().unsqueeze(-1) * A, 2 * (A @ x).unsqueeze(-1) * A])
    torch.testing.assert_close(J.to_dense(), expected)


def test_a_complex_input_has_a_real_symmetric_matrix() -> None:
    z = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex128)
    r = torch.ones(70, dtype=torch.float64)
    H = hesse.Hessian(lambda z, r: (z**3).real.sum() + z.abs().pow(2).sum() * r.pow(2).sum(), (z, r))
    dense = H.to_dense()
    torch.testing.assert_close(dense, H @ torch.eye(74, dtype=torch.float64))
    torch.testing.assert_close(dense, dense.mT)


def test_a_matrix_takes_no_second_copy_of_itself() -> None:
    x = {name: torch.rand(300, dtype=torch.float64) for name in "ab"}
    H = hesse.Hessian(lambda x: (x["a"] * x["b"]).pow(3).sum(), x, batching="loop")
    with torch.profiler.profile(profile_memory=True) as profile:
        matrix = H.to_dense()
    now = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    assert matrix.nbytes <= most < 1.05 * matrix.nbytes


def test_a_stale_point_has_no_matrix() -> None:
    x = torch.ones(3)
    H = hesse.Hessian(lambda x: (x**3).sum(), x)
    x.add_(1)
    with pytest.raises(hesse.StalePointError):
        H.to_dense()


def test_a_bar_is_shown_only_where_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []

    class Recorded:
        def __init__(self, title: str, total: int) -> None:
            assert (title, total) == ("rows of the matrix", 5)

        def __enter__(self) -> None: ...

        def __exit__(self, *exception: object) -> None:
            shown.append(-1)

        def update(self, count: int, status: str) -> None:
            shown.append(count)

    monkeypatch.setattr(materialize, "Bar", Recorded)
    H = hesse.Hessian(lambda x: (x**3).sum(), torch.ones(5))
    H.to_dense()
    assert not shown
    monkeypatch.setattr(materialize, "_LONG", -1.0)
    monkeypatch.setattr(materialize, "is_watched", lambda: True)
    H.to_dense()
    assert shown == [1, 2, 3, 4, 5, -1]
