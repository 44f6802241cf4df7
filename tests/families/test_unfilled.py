"""Models that are built to be loaded: nothing is drawn for what the file fills, and all else is as always."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from sigprune.base.rng import global_stream
from sigprune.families.adapters._unfilled import unfilled
from tests.support.shrinking import shrunk


@pytest.fixture(autouse=True)
def memory_of_nan():
    """Fresh memory holds NaN, so that whatever is computed from an undrawn parameter shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


class Drawing(nn.Module):
    """A constructor that draws a parameter, and buffers in and out of the state dict."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.register_buffer("noise", torch.randn(4))
        self.register_buffer("hidden", torch.empty(4).uniform_(1, 2), persistent=False)


def without_bias(_module, found, _prefix, _local):
    del found["linear.bias"]


class Secretive(Drawing):
    """Its state dict does not hold its bias."""

    def __init__(self):
        super().__init__()
        self.register_state_dict_post_hook(without_bias)


def test_only_random_parameters_are_left_out():
    torch.manual_seed(0)
    model = unfilled(Drawing)
    assert model.linear.weight.isnan().all()
    assert model.linear.bias.isnan().all()
    assert model.norm.weight.equal(torch.ones(8))
    assert model.norm.bias.equal(torch.zeros(8))
    assert model.noise.isfinite().all()
    assert model.hidden.ge(1).all()


def test_what_no_file_would_fill_is_drawn():
    assert unfilled(Secretive).linear.bias.isfinite().all()


def test_afterwards_models_are_drawn_again():
    unfilled(Drawing)
    assert Drawing().linear.weight.isfinite().all()


BUILDS = {
    "timm:resnet18": lambda: timm.create_model("resnet18"),
    "timm:vit": lambda: timm.create_model("vit_tiny_patch16_224"),
    "timm:swin": lambda: timm.create_model("swin_tiny_patch4_window7_224"),
    "timm:eva": lambda: timm.create_model("eva02_tiny_patch14_224"),
    **{
        f"transformers:{name}": lambda name=name: shrunk(name)
        for name in ("bert", "vit", "llama", "mamba", "wav2vec2", "t5", "deepseek_v3", "clip")
    },
}


@pytest.mark.filterwarnings("ignore")  # the libraries' own deprecations
@pytest.mark.parametrize("name", BUILDS)
def test_buffers_that_no_file_holds_are_those_of_a_model_built_as_always(name):
    build = BUILDS[name]
    with global_stream(0, "built"):
        own = build()
    with global_stream(0, "built"):
        quick = unfilled(build)
    assert any(p.isnan().any() for p in quick.parameters())
    assert own.state_dict().keys() == quick.state_dict().keys()
    hidden = dict(own.named_buffers()).keys() - own.state_dict().keys()
    found = dict(quick.named_buffers())
    for buffer in hidden:
        assert found[buffer].equal(own.get_buffer(buffer)), buffer
