"""The engine's own call gives what ``torch.autograd.grad`` gives, and what does not fit goes the long way."""

from typing import Any

import pytest
import torch
from torch import Tensor

import hesse
from hesse._autograd import engine
from hesse._autograd import gradients as gradients_file
from hesse._autograd.gradients import gradients
from hesse._autograd.graph import Edge


def parts() -> tuple[list[Tensor], list[Tensor]]:
    x, y, unused = [torch.full((3,), value, dtype=torch.float64, requires_grad=True) for value in (2.0, 3.0, 4.0)]
    return [x, y, unused], [(x**2 * y).sum(), x * y**3, torch.ones(3, dtype=torch.float64)]


@pytest.mark.private
def test_the_engine_is_where_it_was_and_gives_the_derivatives() -> None:
    assert engine.run is not None
    inputs, outputs = parts()
    weights = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    by_x, by_y, by_unused = gradients(outputs, inputs, [None, weights, None], create_graph=True)
    assert by_x is not None
    assert by_y is not None
    # 2 x y + w y³, and x² + 3 w x y².
    torch.testing.assert_close(by_x, 12 + 27 * weights)
    torch.testing.assert_close(by_y, 4 + 54 * weights)
    assert by_unused is None
    (twice,) = gradients([by_x.sum()], inputs[:1])
    assert twice is not None
    torch.testing.assert_close(twice, torch.full((3,), 6.0, dtype=torch.float64))  # 2 y
    assert all(leaf.grad is None for leaf in inputs)


@pytest.mark.private
def test_a_graph_is_freed_unless_it_is_kept() -> None:
    inputs, (value, *_) = parts()
    gradients([value], inputs, retain_graph=True)
    gradients([value], inputs)
    with pytest.raises(RuntimeError, match="second time"):
        gradients([value], inputs)


@pytest.mark.private
@pytest.mark.parametrize("is_where_it_was", [True, False])
def test_a_product_that_is_its_vector_has_memory_of_its_own(
    is_where_it_was: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_where_it_was:
        assert gradients_file._is_alias is torch._C._is_alias_of
    else:
        monkeypatch.setattr(gradients_file, "_is_alias", gradients_file._have_one_memory)
    memory = torch.arange(6.0)
    for vector in (memory, memory[1:4], memory[::2]):
        H = hesse.Hessian(lambda x: (x**2).sum() / 2, torch.ones(len(vector)), engine="tape")
        before = vector.clone()
        product = H @ vector
        torch.testing.assert_close(product, before)
        product.zero_()
        torch.testing.assert_close(vector, before)


@pytest.mark.parametrize("cotangent", [torch.ones(2), torch.ones(3, dtype=torch.complex128), None])
def test_a_cotangent_that_does_not_fit_is_refused_by_pytorch(cotangent: Any) -> None:
    inputs, (_, vector, _) = parts()
    with pytest.raises(RuntimeError, match=r"shape|dtype|scalar outputs"):
        gradients([vector], inputs, [cotangent])


@pytest.mark.private
def test_an_edge_goes_the_short_way_and_gives_what_its_tensor_does(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, (_, vector, _) = parts()
    edge, weights = Edge.of(vector), torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", None)
        by_x, by_y, by_unused = gradients([edge], inputs, [weights], retain_graph=True)
    torch.testing.assert_close(by_x, 27 * weights)  # w y³
    torch.testing.assert_close(by_y, 54 * weights)  # 3 w x y²
    assert by_unused is None


@pytest.mark.parametrize("cotangent", [torch.ones(2), torch.ones(1), torch.ones(3, dtype=torch.complex128), None])
def test_a_cotangent_that_does_not_fit_an_edge_is_refused_by_pytorch(cotangent: Any) -> None:
    inputs, (_, vector, _) = parts()
    with pytest.raises(RuntimeError, match=r"shape|dtype|scalar outputs"):
        gradients([Edge.of(vector)], inputs, [cotangent])
