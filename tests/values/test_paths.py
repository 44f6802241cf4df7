"""The mode that follows paths: values as torch has them, tangents through everything."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from sigprune.base.rng import generator
from sigprune.values.operator import differentiable
from sigprune.values.paths import Paths


def draws(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, "test", str(shape)), dtype=torch.float64)


@pytest.fixture(autouse=True)
def _dual():
    with differentiable(), forward_ad.dual_level():
        yield


@pytest.mark.parametrize("sides", [{}, {"kdim": 5, "vdim": 5}, {"bias": False}])
@pytest.mark.parametrize("masked", ["", "attn_mask", "by head", "key_padding_mask", "both"])
def test_attention_with_heads_has_the_values_of_torch(sides, masked):
    attention = nn.MultiheadAttention(8, 2, batch_first=True, **sides).double()
    query, key = draws(3, 4, 8), draws(3, 6, sides.get("kdim", 8))
    forbidden = draws(6, 4, 6) > 0.5
    forbidden[..., 0] = False
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[:, 5] = True
    chosen = {
        "": {},
        "attn_mask": {"attn_mask": forbidden[0]},
        "by head": {"attn_mask": forbidden},
        "key_padding_mask": {"key_padding_mask": padding},
        "both": {"attn_mask": forbidden[0], "key_padding_mask": padding},
    }[masked]
    plain, _ = attention(query, key, key, need_weights=False, **chosen)
    with Paths():
        followed, _ = attention(query, key, key, need_weights=False, **chosen)
    torch.testing.assert_close(followed, plain)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}, {"enable_gqa": True}])
def test_scaled_dot_products_have_the_values_and_derivatives_of_torch(options):
    query, key, value = draws(2, 4, 5, 3), draws(2, 2, 5, 3), draws(2, 2, 5, 2)
    if "enable_gqa" not in options:
        query = query[:, :2]
    moving = forward_ad.make_dual(query, draws(*query.shape).neg())
    plain = F.scaled_dot_product_attention(moving, key, value, **options)
    with Paths():
        followed = F.scaled_dot_product_attention(moving, key, value, **options)
    for a, b in zip(forward_ad.unpack_dual(followed), forward_ad.unpack_dual(plain), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("act", [F.relu, F.relu6, F.silu, F.hardswish, torch.sigmoid, torch.relu_, F.gelu])
def test_functions_of_one_entry_pass_tangents_on(act):
    x = 30 * draws(7)
    with Paths():
        value, tangent = forward_ad.unpack_dual(act(forward_ad.make_dual(x.clone(), torch.ones_like(x))))
    torch.testing.assert_close(value, act(x.clone()))
    assert tangent.tolist() == [1.0] * 7


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True), nn.AdaptiveMaxPool2d(2)]
)
def test_every_entry_of_a_window_may_win(pool):
    x = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    x[..., 0, 0] = 1.0
    leaf = torch.ones_like(x).requires_grad_()
    with Paths():
        tangent = forward_ad.unpack_dual(pool(forward_ad.make_dual(x, leaf))).tangent
    (share,) = torch.autograd.grad(tangent.sum(), leaf)
    assert (share > 0).all()


def test_values_with_a_tangent_do_not_depend_on_parameters():
    weight = draws(3, 3).requires_grad_()
    with Paths():
        out = F.linear(forward_ad.make_dual(draws(2, 3), draws(2, 3)), weight)
    value, tangent = forward_ad.unpack_dual(out)
    assert not value.requires_grad
    assert tangent.requires_grad
