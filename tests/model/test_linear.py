"""The packed product equals the plain one, and where packing is missing the plain one serves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from octavo_runtime.model import linear
from octavo_runtime.model.linear import Linear, packing_works


@pytest.fixture
def no_library(monkeypatch):
    """As on a machine where octavo_kernels was installed without a compiler."""
    monkeypatch.setattr(linear, "why_not_native", lambda: "it was not built")


@pytest.fixture
def no_packing(monkeypatch, no_library):
    del no_library

    def missing(_weight):
        raise AttributeError("no such operator")

    monkeypatch.setattr(linear, "_pack", missing)
    packing_works.cache_clear()
    yield
    packing_works.cache_clear()


@pytest.fixture(params=["library", "oneDNN"])
def way(request):
    """Both ways of packing a weight."""
    if request.param == "oneDNN":
        request.getfixturevalue("no_library")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("rows", [1, 2, 31, 64])
@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 48)], ids=["plain", "bias"])
def test_the_product(rows, bias):
    weight = torch.randn(48, 32, generator=torch.Generator().manual_seed(0))
    x = torch.randn(rows, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(Linear(weight, bias)(x), F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_this_torch_can_pack():
    """The private operators that give CPUs their speed are there; when an upgrade drops them, we want to know."""
    assert packing_works()


@pytest.mark.usefixtures("no_packing")
def test_without_packing_the_plain_product_serves():
    weight, x = torch.randn(8, 4), torch.randn(3, 4)
    assert not packing_works()
    assert torch.equal(Linear(weight)(x), F.linear(x, weight))


def test_other_dtypes_are_not_packed():
    weight, x = torch.randn(8, 4, dtype=torch.bfloat16), torch.randn(3, 4, dtype=torch.bfloat16)
    assert torch.equal(Linear(weight)(x), F.linear(x, weight))
