"""What re-initialisation does to each part of a network; what standardised weights are to the function."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import nn
from transformers.models.bit.modeling_bit import WeightStandardizedConv2d

from sigprune.base.errors import UnknownName
from sigprune.base.registry import MemberSpec
from sigprune.families.inits import delta_orthogonal
from sigprune.init.policy import InitPolicy, treatments
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe, open_model
from sigprune.values.orthogonality import singular_values
from tests.support.networks import SmallConv

STANDARDISED = [StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame, WeightStandardizedConv2d]


class Separable(nn.Module):
    """A depthwise and a pointwise convolution, tokens, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(4, 8, 3, padding=1, groups=4)
        self.norm = nn.BatchNorm2d(8)
        self.pointwise = nn.Conv2d(8, 6, 1)
        self.up = nn.ConvTranspose2d(6, 6, 2, groups=6)
        self.table = nn.Embedding(5, 6)
        self.pos_embed = nn.Parameter(torch.ones(1, 5, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        features = self.up(self.pointwise(self.norm(self.depthwise(x)))).mean((2, 3))
        return self.head(features + (self.table.weight + self.pos_embed).mean((0, 1)))


def separable():
    return describe(Separable(), example=torch.zeros(1, 4, 8, 8))


def changed(view, before):
    """Names of the tensors that are not what they were."""
    now = view.module.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(tensor, now[name])}


@pytest.mark.parametrize("kind", STANDARDISED)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_effective_values_are_those_of_the_forward_pass(kind, groups):
    layer = kind(4, 8, 3, padding=1, groups=groups).double()
    view = describe(layer, example=torch.zeros(1, 4, 6, 6))
    if hasattr(layer, "gain"):
        nn.init.normal_(layer.gain)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    used = view["weight"].effective(view.params())
    expected = torch.nn.functional.conv2d(x, used, layer.bias, padding=1, groups=groups)
    torch.testing.assert_close(layer(x), expected)
    assert not torch.allclose(used, layer.weight)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_effective_values_of_weight_normalised_layers():
    layer = torch.nn.utils.weight_norm(nn.Linear(5, 3).double())
    nn.init.uniform_(layer.weight_g, 1, 2)
    layer(torch.zeros(1, 5, dtype=torch.float64))
    view = describe(layer)
    (weight,) = view.weights
    torch.testing.assert_close(weight.effective(view.params()), layer.weight.detach())


@pytest.mark.parametrize("kind", STANDARDISED)
@pytest.mark.parametrize(
    "sizes", [(4, 8, 3, 1), (16, 8, 1, 1), (8, 8, 1, 1), (8, 8, 3, 8), (64, 4, 1, 1)], ids=str
)
def test_standardised_weights_are_orthogonal_as_used(kind, sizes):
    """Also with more outputs than inputs; eps shifts all filters alike."""
    inputs, outputs, kernel, groups = sizes
    layer = kind(inputs, outputs, kernel, groups=groups).double()
    view = describe(layer, example=torch.zeros(1, inputs, 6, 6))
    reinit_(view)
    used = view["weight"].effective(view.params())
    values = singular_values(view["weight"].layout.blocks(used))
    assert float(values.max() / values.min()) - 1 < 1e-9
    reinit_(view, "kaiming")
    values = singular_values(view["weight"].layout.blocks(view["weight"].effective(view.params())))
    assert groups == 8 or float(values.max() / values.min()) > 1.2, "the check must be able to fail"


def test_defaults():
    view = separable()
    reinit_(view)
    params = view.params()
    assert view["depthwise.weight"].depthwise
    assert view["up.weight"].depthwise
    assert not view["pointwise.weight"].depthwise
    for name in ("depthwise.weight", "up.weight", "pointwise.weight", "head.weight"):
        values = singular_values(view[name].layout.blocks(params[name]))
        torch.testing.assert_close(values, torch.ones_like(values), atol=1e-6, rtol=0)
    for name in ("table.weight", "pos_embed"):
        assert 0.005 < float(params[name].std()) < 0.04
    assert not params["head.bias"].any()


def test_each_part_has_a_say():
    view = separable()
    before = copy.deepcopy(view.module.state_dict())
    policy = InitPolicy(
        depthwise=delta_orthogonal, embedding=MemberSpec("normal", {"std": 1.0}), head="keep", norms="keep"
    )
    reinit_(view, MemberSpec("orthogonal", {"gain": 2.0}), policy=policy)
    parts = {
        one.part: one for one in treatments(view, MemberSpec("orthogonal", {"gain": 2.0}), "open", policy)
    }
    assert (parts["weights"].gain, parts["depthwise kernels"].gain, parts["heads"].gain) == (2.0, 1.0, 1.0)
    taps = view.params()["depthwise.weight"].flatten(1)
    assert int((taps != 0).sum()) == 8
    assert taps[:, 4].reshape(4, 2).norm(dim=1).allclose(torch.ones(4)), "two outputs of each channel"
    assert 0.5 < float(view.params()["table.weight"].std()) < 1.5
    assert changed(view, before) == {
        "depthwise.weight", "depthwise.bias", "pointwise.weight", "pointwise.bias", "up.weight", "up.bias",
        "table.weight", "pos_embed",
    }  # fmt: skip


def test_a_fresh_head_on_kept_weights():
    view = separable()
    nn.init.constant_(view.module.norm.running_mean, 3.0)
    before = copy.deepcopy(view.module.state_dict())
    reinit_(view, None, policy=InitPolicy(head="orthogonal"))
    assert changed(view, before) == {"head.weight", "head.bias"}
    reinit_(view, None, policy=InitPolicy(norms="reset"))
    assert not view.module.norm.running_mean.any()


def test_statistics_are_fresh_where_norms_have_nothing_else():
    view = describe(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)))
    view.module[1].running_mean.add_(1.0)
    reinit_(view)
    assert not view.module[1].running_mean.any()


def test_every_parameter_is_in_one_part_or_left_alone_for_its_reason():
    for name in ("test_vit", "test_resnet", "test_nfnet", "test_convnext"):
        view = describe(timm.create_model(name))
        found = [n for one in treatments(view, "orthogonal") for n in one.names]
        assert len(found) == len(set(found))
        rest = {view.skipped[n] for n in view.params() if n not in found}
        assert rest <= {"vector", "other", "state", "router"}


def test_policies_that_do_not_exist():
    view = describe(SmallConv(), example=torch.zeros(1, 3, 8, 8))
    with pytest.raises(UnknownName, match="unknown norm policy 'rest'; did you mean reset"):
        reinit_(view, policy=InitPolicy(norms="rest"))
    with pytest.raises(UnknownName, match="unknown init 'kep'"):
        reinit_(view, policy=InitPolicy(head="kep"))


def test_tokens_and_tables_of_any_shape():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.cls_token = nn.Parameter(torch.ones(4))
            self.pos_embed = nn.Parameter(torch.ones(1, 2, 3, 4))

        def forward(self, x):
            return self.fc(x) + self.cls_token + self.pos_embed.sum()

    view = describe(Odd(), example=torch.zeros(1, 4))
    reinit_(view)
    assert all(float(view.params()[name].abs().max()) < 0.2 for name in ("cls_token", "pos_embed"))


def test_a_network_of_standardised_weights():
    """All of NFNet's convolutions have one singular value as used: gamma, the gain of its activation."""
    view = describe(open_model("timm:test_nfnet"))
    reinit_(view)
    params = view.params()
    standardised = [weight for weight in view.weights if weight.standardised]
    assert len(standardised) > 5
    for weight in standardised:
        values = singular_values(weight.layout.blocks(weight.effective(params)))
        assert float(values.max() / values.min()) - 1 < 1e-4, weight.name
