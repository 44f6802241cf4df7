"""Re-initialisation: every block, gates, norms, determinism, device independence."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from sigprune.base.errors import UnknownName
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe, open_model
from tests.support.networks import SmallConv


def singular_values(view, name):
    weight = view[name]
    return torch.cat([
        torch.linalg.svdvals(b.flatten(1).double()) for b in weight.layout.blocks(view.params()[name])
    ])


def test_every_block_is_orthogonal():
    view = describe(SmallConv(), example=torch.zeros(1, 3, 8, 8))
    reinit_(view, "orthogonal", seed=3)
    for weight in view.weights:
        values = singular_values(view, weight.name)
        torch.testing.assert_close(values, torch.ones_like(values), atol=1e-5, rtol=0)


def test_query_key_and_value_are_orthogonal_each():
    module = open_model("timm:test_vit", args={"num_classes": 4})
    view = describe(module)
    reinit_(view)
    qkv = next(w for w in view.weights if w.name.endswith("attn.qkv.weight"))
    blocks = list(qkv.layout.blocks(view.params()[qkv.name]))
    assert len(blocks) == 3
    for block in blocks:
        torch.testing.assert_close(block @ block.T, torch.eye(len(block)), atol=1e-5, rtol=0)


def test_norms_biases_and_statistics_are_reset():
    view = describe(SmallConv(), example=torch.zeros(1, 3, 8, 8))
    module = view.module
    with torch.no_grad():
        for p in module.parameters():
            p.add_(5.0)
        module.norm1.running_mean.add_(1.0)
    reinit_(view)
    assert not module.head.bias.any()
    assert not module.norm1.bias.any()
    assert bool((module.norm1.weight == 1).all())
    assert not module.norm1.running_mean.any()


def test_equal_seeds_equal_values():
    views = [describe(SmallConv(), example=torch.zeros(1, 3, 8, 8)) for _ in range(3)]
    for view, seed in zip(views, (1, 1, 2), strict=True):
        reinit_(view, seed=seed)
    first, same, other = (v.module.state_dict() for v in views)
    assert all(torch.equal(first[k], same[k]) for k in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_values_do_not_depend_on_other_layers():
    """A stream per block: adding a layer changes no other layer's values."""
    short = nn.Sequential(nn.Linear(4, 4))
    long = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    for module in (short, long):
        reinit_(describe(module))
    assert torch.equal(short[0].weight, long[0].weight)


@pytest.mark.parametrize(
    ("name", "args", "gated"),
    [
        ("test_resnet", {}, 4),
        ("deit3_small_patch16_224", {"depth": 2, "embed_dim": 48, "num_heads": 3}, 4),
        pytest.param("resnet18", {}, 8, marks=pytest.mark.slow),
        pytest.param("resnet50", {}, 16, marks=pytest.mark.slow),
        pytest.param("deit3_small_patch16_224", {}, 24, marks=pytest.mark.slow),
    ],
)
def test_gates_are_opened(name, args, gated):
    """timm closes residual branches at construction: zero norms (ResNet), tiny LayerScale (DeiT III)."""
    view = describe(open_model(f"timm:{name}", args=args))
    closed = [g.name for g in view.gates if g.closed]
    assert len(closed) == gated
    kept = copy.deepcopy(view.module)
    assert reinit_(view, gates="keep") == ()
    params = dict(kept.named_parameters())
    assert all(torch.equal(view.params()[g], params[g]) for g in closed)
    assert set(reinit_(view, None, gates="open")) == set(closed)
    assert all(bool((view.params()[g] == 1).all()) for g in closed)


def test_keeping_values_opens_constant_gates_only():
    """A trained gate is part of the function; only a constant of at most 0.1 is opened."""
    view = describe(open_model("timm:test_resnet"))
    trained, *rest = [g.name for g in view.gates]
    with torch.no_grad():
        view.params()[trained].copy_(torch.linspace(0.01, 0.05, len(view.params()[trained])))
    weights = {w.name: view.params()[w.name].clone() for w in view.weights}
    assert set(reinit_(view, None)) == set(rest)
    assert float(view.params()[trained].max()) == pytest.approx(0.05)
    assert all(torch.equal(view.params()[n], t) for n, t in weights.items())


def test_modes_that_do_not_exist():
    view = describe(nn.Linear(4, 4))
    with pytest.raises(UnknownName, match="unknown gate policy 'opn'; did you mean open"):
        reinit_(view, gates="opn")
    with pytest.raises(UnknownName, match="unknown BatchNorm mode 'evl'; did you mean eval"):
        describe(nn.Linear(4, 4), batchnorm="evl")


@pytest.mark.parametrize(
    "norm", [parametrizations.weight_norm, torch.nn.utils.weight_norm], ids=["new", "old"]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_weight_normalised_layers_are_orthogonal_in_effect(norm):
    layer = norm(nn.Linear(8, 5))
    reinit_(describe(layer), "orthogonal")
    layer(torch.zeros(1, 8))  # the old one computes its weight before each call
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(5), atol=1e-6, rtol=0)
