"""Objects that PyTorch hands on to the threads of a backward keep their references, whatever the release."""

from __future__ import annotations

import sys

import pytest
import torch

from hesse._base import handed_on


@pytest.mark.private
def test_what_is_put_is_there_until_it_is_replaced() -> None:
    value = object()
    handed_on.put("hesse.test", value)
    assert torch._C._get_obj_in_tls("hesse.test") is value
    handed_on.put("hesse.test", None)
    assert torch._C._get_obj_in_tls("hesse.test") is None


@pytest.mark.private
def test_putting_an_object_many_times_takes_no_reference_of_others() -> None:
    """PyTorch 2.11 gives up a reference that it has not taken, which in time frees a number that is in use."""
    value = object()
    before = sys.getrefcount(value)
    for _ in range(100):
        handed_on.put("hesse.test", value)
        handed_on.put("hesse.test", None)
    assert sys.getrefcount(value) >= before
