"""``batch_dim=0``: many independent problems at once, against the Hessian of each alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hesse

B = 5


def energies(x: Tensor) -> Tensor:
    """Of B molecules with four atoms in three dimensions: all pairs, softened."""
    distances = (x.unsqueeze(-2) - x.unsqueeze(-3)).pow(2).sum(-1) + 1.0
    return distances.rsqrt().sum((-1, -2)) + x.sin().sum((-1, -2))


def molecules(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(B, 4, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)


def each_alone(x: Tensor) -> Tensor:
    """The Hessian of each molecule by torch.func, in float64."""
    return torch.stack([torch.func.hessian(lambda y: energies(y[None])[0])(one).reshape(12, 12) for one in x.double()])


@pytest.mark.parametrize("batching", ["loop", "vmap", "auto"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_the_blocks_are_the_hessians_of_the_problems(batching, dtype: torch.dtype, atol: float) -> None:
    x = molecules(dtype)
    H = hesse.Hessian(energies, x, batch_dim=0, batching=batching)
    assert H.value.shape == (B,)
    torch.testing.assert_close(H.value, energies(x))
    torch.testing.assert_close(H.dense_blocks(), each_alone(x).to(dtype), atol=atol, rtol=atol)


def test_a_product_is_that_of_each_problem() -> None:
    x = molecules()
    v = torch.randn(B, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = (each_alone(x) @ v.reshape(B, 12, 1)).reshape(B, 4, 3)
    H = hesse.Hessian(energies, x, batch_dim=0)
    torch.testing.assert_close(H @ v, expected)
    torch.testing.assert_close(H @ v.reshape(-1), expected.reshape(-1))
    torch.testing.assert_close(H.to_dense(), torch.block_diag(*each_alone(x)))
    moved = H.at(x + 1)
    torch.testing.assert_close(moved.dense_blocks(), each_alone(x + 1))


def test_all_blocks_take_as_many_products_as_one_problem_has_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append("func")
        return energies(x)

    H = hesse.Hessian(counted, molecules(), batch_dim=0, batching="loop")
    replay = H._point.term.linearizations[0].rmatvec
    monkeypatch.setattr(
        H._point.term.linearizations[0],
        "rmatvec",
        lambda *given, **named: calls.append("product") or replay(*given, **named),
    )
    H.dense_blocks()
    assert calls == ["func"] + ["product"] * 12


def test_several_inputs_stand_one_after_another_in_a_block() -> None:
    x = {"a": torch.rand(B, 2, dtype=torch.float64), "b": torch.rand(B, dtype=torch.float64)}
    H = hesse.Hessian(lambda x: (x["a"] ** 3).sum(1) * x["b"], x, batch_dim=0)
    expected = torch.zeros(B, 3, 3, dtype=torch.float64)
    for i in range(2):
        expected[:, i, i] = 6 * x["a"][:, i] * x["b"]
        expected[:, i, 2] = expected[:, 2, i] = 3 * x["a"][:, i] ** 2
    torch.testing.assert_close(H.dense_blocks(), expected)


@pytest.mark.parametrize(
    "coupled",
    [
        lambda x: x.pow(2).sum(1) + x.sum(),
        lambda x: (x - x.mean(0)).pow(2).sum(1),
        lambda x: x.pow(3).sum(1) * x.roll(1, 0).sin().sum(1),
        # No first derivative tells it at the point, where the neighbor is zero.
        lambda x: x.pow(3).sum(1) + (x.roll(1, 0) - x.roll(1, 0).detach()).pow(2).sum(1),
        lambda x: torch.nn.functional.batch_norm(x, None, None, training=True).pow(3).sum(1),
    ],
)
def test_problems_that_depend_on_each_other_are_refused(coupled) -> None:
    x = torch.rand(B, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(RuntimeError, match="couples its problems: a value depends on the inputs of another problem"):
        hesse.Hessian(coupled, x, batch_dim=0)


def test_independent_problems_pass_the_check_in_single_precision_too() -> None:
    for seed in range(20):
        x = 10 * torch.randn(7, 30, generator=torch.Generator().manual_seed(seed))
        hesse.Hessian(lambda x: x.log_softmax(1).sin().sum(1) + x.tanh().prod(1), x, batch_dim=0)


def test_what_does_not_fit_is_named() -> None:
    x = molecules()
    with pytest.raises(RuntimeError, match=r"should return one real Tensor of shape \(B,\) but returns \(\)"):
        hesse.Hessian(lambda x: energies(x).sum(), x, batch_dim=0)
    with pytest.raises(RuntimeError, match=r"returns 5 values, but \['w'\] has shape \(3,\): each input should"):
        hesse.Hessian(
            lambda p: energies(p["x"] * p["w"]), {"x": x, "w": torch.ones(3, dtype=torch.float64)}, batch_dim=0
        )
    with pytest.raises(ValueError, match="batch_dim should be 0 or None but is 1"):
        hesse.Hessian(energies, x, batch_dim=1)  # type: ignore[arg-type]  # the wrong value is the test
    with pytest.raises(ValueError, match='batch_dim=0 needs engine="tape"'):
        hesse.Hessian(energies, x, batch_dim=0, engine="compiled")
    with pytest.raises(ValueError, match="Make it with batch_dim=0"):
        hesse.Hessian(lambda x: energies(x).sum(), x).dense_blocks()


def test_the_blocks_respect_the_budget() -> None:
    with pytest.raises(hesse.MemoryBudgetError, match=r"shape \(5, 12, 12\) takes 5\.625 KiB but 5 KiB may be taken"):
        hesse.Hessian(energies, molecules(), batch_dim=0, memory="5KiB").dense_blocks()


def test_no_problems_have_no_blocks() -> None:
    H = hesse.Hessian(lambda x: x.pow(2).sum(1), torch.zeros(0, 3), batch_dim=0)
    assert H.dense_blocks().shape[0] == 0
