"""``engine="auto"``: when a program is tried, what becomes of products, and how a choice is given back."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hesse._linearize.automatic import Auto
from hesse._linearize.ladder import Candidate
from torch import Tensor

import hesse
from hesse._linearize import automatic, ladder
from hesse._linearize import engines as choice
from hesse._linearize.compiled import Compiled
from hesse._linearize.program.backends import EAGER, Backend
from hesse._linearize.program.stand_ins import is_stand_in

PRICE = 1e-6, 0.0
X = torch.linspace(-1, 1, 6, dtype=torch.float64)
V = torch.linspace(0, 2, 6, dtype=torch.float64)


def quartic(x: Tensor) -> Tensor:
    return (x**4).sum() + x.prod()


DENSE = torch.autograd.functional.hessian(quartic, X)


def auto(
    func: Callable[..., Any], *, expect: int = 0, directions: tuple[str, ...] = ("rmatvec",), backend: Backend = EAGER
) -> Auto:
    """The engine, whose programs run without a compiler."""
    compiled = Compiled(func, directions, or_tape=True, backend=backend)  # type: ignore[arg-type]  # literals
    return Auto([Candidate(compiled, *PRICE)], expect)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling is expected to cost a microsecond, and a program always to be faster."""
    for price in ("CAPTURED_PRICE", "COMPILED_PRICE"):
        monkeypatch.setattr(choice, price, PRICE)
    monkeypatch.setattr(ladder, "_GAIN", 0.0)


@pytest.fixture
def slow_programs(monkeypatch: pytest.MonkeyPatch, cheap: None) -> None:
    monkeypatch.setattr(ladder, "_GAIN", 1e12)


def test_a_few_products_stay_with_the_tape_and_compile_nothing() -> None:
    H = hesse.Hessian(quartic, X)
    for _ in range(100):
        torch.testing.assert_close(H @ V, DENSE @ V)
    explained = H.explain()
    assert (explained.engine, explained.programs) == ("tape", 0)
    assert "ms by the tape engine; 100 were made" in explained.engine_reason


@pytest.mark.usefixtures("cheap")
def test_many_products_change_to_a_program_and_stay_right() -> None:
    real = []

    def counted(x: Tensor) -> Tensor:
        if not is_stand_in(x):
            real.append(None)
        return quartic(x)

    H = hesse.Hessian(counted, X, engine=auto(counted))
    for _ in range(5):
        torch.testing.assert_close(H @ V, DENSE @ V)
    explained = H.explain()
    assert (explained.engine, explained.programs) == ("compiled", 1)
    assert "ms by the compiled engine" in explained.engine_reason
    # The function runs on numbers once, when the operator is made.
    assert len(real) == 1
    torch.testing.assert_close(H.to_dense(), DENSE)


@pytest.mark.usefixtures("slow_programs")
def test_a_program_that_is_measured_slower_is_not_taken_and_not_tried_again() -> None:
    H = hesse.Hessian(quartic, X, engine=auto(quartic))
    for _ in range(5):
        torch.testing.assert_close(H @ V, DENSE @ V)
    assert H.explain().engine == "tape"
    assert "ms by the compiled engine" in H.explain().engine_reason
    moved = H.at(2 * X)
    moved @ V
    assert moved.explain().programs == 1


def test_an_engine_is_tried_when_a_tenth_of_all_products_pays_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted with a clock of our own: 1 s a product, so 30 s of compiling pay from 300 products on."""
    monkeypatch.setattr(automatic.Clock, "lap", lambda self, device: 1.0)
    tried: list[int] = []

    def multiplied(expect: int) -> hesse.Hessian:
        compiled = Compiled(quartic, ("rmatvec",), or_tape=True, backend=EAGER)
        engine = Auto([Candidate(compiled, 30.0, 0.0)], expect)
        monkeypatch.setattr(engine, "attempt", lambda candidate, now, *rest, **how: tried.append(engine._made) or now)
        H = hesse.Hessian(quartic, X, engine=engine)
        while not tried:
            H @ V
        return H

    multiplied(0)
    assert tried == [300]
    tried.clear()
    H = multiplied(300)
    assert tried == [2]
    assert "300 are expected, which does not pay for the 30.0 s" in H.explain().engine_reason


def test_the_dearer_engine_is_tried_after_the_cheaper_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "_GAIN", 0.0)
    monkeypatch.setattr(automatic.Clock, "lap", lambda self, device: 1.0)
    cheap = Compiled(quartic, ("rmatvec",), or_tape=True, engine="captured")
    dear = Compiled(quartic, ("rmatvec",), or_tape=True, backend=EAGER)
    monkeypatch.setattr(Compiled, "seconds", 0.0)
    H = hesse.Hessian(quartic, X, engine=Auto([Candidate(cheap, 1.0, 0.0), Candidate(dear, 5.0, 0.0)], 0))
    kinds = []
    for _ in range(60):
        torch.testing.assert_close(H @ V, DENSE @ V)
        kinds.append(H.explain().engine)
    assert [kinds.index(kind) for kind in ("tape", "captured", "compiled")] == [0, 10, 50]
    assert H.explain().programs == 2


@pytest.mark.usefixtures("cheap")
def test_random_numbers_are_drawn_once() -> None:
    def dropped(x: Tensor) -> Tensor:
        return ((torch.nn.functional.dropout(x, 0.5) + 1) ** 4).sum()

    torch.manual_seed(3)
    H = hesse.Hessian(dropped, X, engine=auto(dropped))
    after = torch.get_rng_state()
    torch.manual_seed(3)
    mask = torch.nn.functional.dropout(torch.ones_like(X), 0.5)
    expected = 12 * mask**2 * (X * mask + 1) ** 2 * V
    state = torch.get_rng_state()
    assert torch.equal(after, state)
    for _ in range(5):
        torch.testing.assert_close(H @ V, expected)
    assert H.explain().engine == "compiled"
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("cheap")
def test_a_function_that_changes_tensors_in_place_stays_with_the_tape_aloud() -> None:
    count = torch.zeros((), dtype=torch.float64)

    def counts(x: Tensor) -> Tensor:
        count.add_(1)
        return quartic(x)

    H = hesse.Hessian(counts, X, engine=auto(counts))
    H @ V
    H @ V
    with pytest.warns(UserWarning, match="goes on with the tape: it changes tensors in place"):
        torch.testing.assert_close(H @ V, DENSE @ V)
    assert float(count) == 1
    assert H.explain().engine == "tape"


@pytest.mark.usefixtures("cheap")
def test_a_function_without_a_program_warns_once_and_says_why() -> None:
    def branching(x: Tensor) -> Tensor:
        return quartic(x) if x.sum() > -100 else x.sum()

    H = hesse.Hessian(branching, X, engine="auto")
    with pytest.warns(UserWarning, match=r'engine="auto" goes on with the tape: aten.* needs the values') as caught:
        products = [H @ V for _ in range(5)]
    for product in products:
        torch.testing.assert_close(product, DENSE @ V)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        H = H.at(X)
        for _ in range(5):
            torch.testing.assert_close(H @ V, DENSE @ V)
    explanation = H.explain()
    assert (explanation.engine, explanation.programs) == ("tape", 0)
    assert "no program can be had" in str(explanation)
    assert "needs the values of a tensor" in str(explanation)


@pytest.mark.usefixtures("cheap")
def test_a_wrong_program_is_not_taken() -> None:
    def compile(graph: Any) -> Any:
        return lambda given: [result * 1.01 for result in graph(*given)]

    H = hesse.Hessian(quartic, X, engine=auto(quartic, backend=Backend(compile)))
    H @ V
    H @ V
    with pytest.warns(UserWarning, match="differs from the tape's"):
        torch.testing.assert_close(H @ V, DENSE @ V)
    assert H.explain().engine == "tape"


@pytest.mark.usefixtures("cheap")
def test_memory_that_runs_out_while_a_program_is_made_keeps_the_tape() -> None:
    def compile(graph: Any) -> Any:
        raise torch.OutOfMemoryError("no room")

    H = hesse.Hessian(quartic, X, engine=auto(quartic, backend=Backend(compile)))
    H @ V
    H @ V
    with pytest.warns(UserWarning, match="no room"):
        torch.testing.assert_close(H @ V, DENSE @ V)


@pytest.mark.usefixtures("cheap")
def test_where_memory_is_short_no_engine_is_tried_until_there_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    left = 2**20
    monkeypatch.setattr("hesse._base.memory.available", lambda device: left)
    H = hesse.Hessian(quartic, X, engine=auto(quartic))
    for _ in range(5):
        torch.testing.assert_close(H @ V, DENSE @ V)
    explained = H.explain()
    assert (explained.engine, explained.programs) == ("tape", 0)
    assert "no other engine was tried, since that may take 512" in explained.engine_reason
    assert ", and 512 KiB may be taken" in explained.engine_reason
    left = 2**40
    for _ in range(12):
        H @ V
    assert H.explain().engine == "compiled"


@pytest.mark.usefixtures("cheap")
def test_an_engine_that_does_not_fit_into_the_named_memory_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "COMPILED_PRICE", (1e9, 0.0))
    kinds = []
    for memory in ("500MiB", "520MiB"):
        H = hesse.Hessian(quartic, X, memory=memory)
        for _ in range(5):
            torch.testing.assert_close(H @ V, DENSE @ V)
        kinds.append(H.explain().engine)
    assert kinds == ["tape", "captured"]


@pytest.mark.usefixtures("cheap")
def test_the_next_points_use_the_program_that_one_has_decided_for() -> None:
    H = hesse.Hessian(quartic, X, engine=auto(quartic))
    for _ in range(5):
        H @ V
    for factor in (2.0, 3.0):
        H = H.at(factor * X)
        torch.testing.assert_close(H @ V, torch.autograd.functional.hessian(quartic, factor * X) @ V)
        assert (H.explain().engine, H.explain().programs) == ("compiled", 1)


@pytest.mark.usefixtures("cheap")
def test_products_made_at_all_points_count() -> None:
    engine = auto(quartic)
    H = hesse.Hessian(quartic, X, engine=engine)
    kinds = []
    for _ in range(5):
        H @ V
        kinds.append(H.explain().engine)
        H = H.at(X)
    assert kinds == ["tape", "tape", "compiled", "compiled", "compiled"]


@pytest.mark.usefixtures("cheap")
def test_many_vectors_at_once_change_to_a_program_too() -> None:
    H = hesse.Hessian(quartic, X, engine=auto(quartic), batching="vmap")
    W = torch.randn(6, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        torch.testing.assert_close(H @ W, DENSE @ W)
    assert H.explain().engine == "compiled"


@pytest.mark.usefixtures("cheap")
def test_a_jacobian_changes_in_both_directions() -> None:
    def curve(x: Tensor) -> Tensor:
        return torch.stack([x.prod(), (x**2).sum()])

    dense = torch.autograd.functional.jacobian(curve, X)
    engine = auto(curve, directions=("rmatvec", "matvec"))
    J = hesse.Jacobian(curve, X, engine=engine)
    u = torch.tensor([2.0, -1.0], dtype=torch.float64)
    for _ in range(5):
        torch.testing.assert_close(J @ V, dense @ V)
        torch.testing.assert_close(J.T @ u, dense.T @ u)
    assert J.explain().engine == "compiled"


@pytest.mark.usefixtures("cheap")
def test_blocks_count_and_change_with_their_hessian() -> None:
    def coupled(x: Tensor, y: Tensor) -> Tensor:
        return (x**3 * y).sum()

    x, y = X, V
    H = hesse.Hessian(coupled, (x, y), engine=auto(coupled))
    block = H.block(0, 1)
    for _ in range(5):
        torch.testing.assert_close(block @ V, 3 * x**2 * V)
    assert H.explain().engine == "compiled"


@pytest.mark.usefixtures("cheap")
def test_what_is_closed_or_stale_is_refused_by_either_engine() -> None:
    x = X.clone()
    H = hesse.Hessian(quartic, x, engine=auto(quartic))
    for _ in range(5):
        H @ V
    x.add_(1)
    with pytest.raises(hesse.StalePointError):
        H @ V
    H.close()
    H = H.at(X)
    H.close()
    with pytest.raises(hesse.ClosedError):
        H @ V


@pytest.mark.usefixtures("cheap")
def test_a_checkpoint_settles_the_engine_and_hands_it_on(tmp_path: Path) -> None:
    path = tmp_path / "density.safetensors"

    def density(engine: Any, seconds: float) -> tuple[Tensor, str]:
        H = hesse.Hessian(quartic, X, engine=engine)
        found = hesse.spectral_density(
            H, num_probes=3, num_steps=4, rng=0, checkpoint=hesse.Checkpoint(path, seconds=seconds)
        )
        return found.density, H.explain().engine

    expected, kind = density(auto(quartic, expect=1000), 0)
    assert kind == "compiled"
    # Without an expectation this one would stay with the tape; the checkpoint says otherwise.
    again, kind = density(auto(quartic), 0)
    assert kind == "compiled"
    assert torch.equal(again, expected)


def test_products_by_the_captured_graph_are_right_at_all_points() -> None:
    H = hesse.Hessian(quartic, X, engine="captured")
    torch.testing.assert_close(H @ V, DENSE @ V)
    assert H.explain().choice == hesse.Choice("captured")
    moved = H.at(2 * X)
    torch.testing.assert_close(moved.to_dense(), torch.autograd.functional.hessian(quartic, 2 * X))
    assert moved.explain().programs == 1


def test_a_choice_can_be_given_back() -> None:
    H = hesse.Hessian(quartic, X, batching="vmap")
    W = torch.eye(6, dtype=torch.float64)
    H @ W
    choice = H.explain().choice
    assert choice == hesse.Choice("tape", "vmap", 16)
    assert eval(repr(choice), {"Choice": hesse.Choice}) == choice
    again = hesse.Hessian(quartic, X, engine=hesse.Choice("tape", "vmap", 4))
    torch.testing.assert_close(again @ W, DENSE)
    assert again.explain().chunk == 4
    assert again.at(2 * X).explain().choice == hesse.Choice("tape", "vmap", 4)
    assert hesse.Jacobian(torch.sin, X, engine=hesse.Choice()).explain().choice == hesse.Choice()


@pytest.mark.parametrize("choice", [("jit", "loop", 1), ("tape", "scan", 1), ("tape", "vmap", 0)])
def test_a_choice_that_is_none_is_refused(choice: tuple[Any, Any, Any]) -> None:
    with pytest.raises(ValueError, match="A Choice needs engine"):
        hesse.Choice(*choice)


def test_a_negative_expectation_is_refused() -> None:
    with pytest.raises(ValueError, match="expect should be a number of products but is -1"):
        hesse.Hessian(quartic, X, expect=-1)


def test_questions_say_how_many_products_they_expect() -> None:
    expected: list[int] = []

    class Watched(hesse.Hessian):
        def expect(self, products: int) -> None:
            expected.append(products)

    H = Watched(quartic, X)
    hesse.spectral_density(H, num_probes=3, num_steps=4, rng=0)
    hesse.eigsh(H + H, k=2, rng=0)
    hesse.trace(H, method="exact")
    assert expected == [12, 28, 28, 6]


@pytest.mark.usefixtures("cheap")
def test_a_checkpoint_by_another_engine_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = hesse.Checkpoint(tmp_path / "eigsh.safetensors", seconds=0)
    hesse.eigsh(hesse.Hessian(quartic, X, engine="tape"), 2, checkpoint=path, rng=0)
    with pytest.raises(ValueError, match=r'by the tape engine before and by the captured one now.*engine="tape"'):
        hesse.eigsh(hesse.Hessian(quartic, X, engine="captured"), 2, checkpoint=path, rng=0)
