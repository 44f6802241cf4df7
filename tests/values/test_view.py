"""Views: forward passes that change nothing, BatchNorm modes, what may be pruned."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sigprune.base.errors import BadInput, UnknownName
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe, open_model
from sigprune.values.batch import Batch, as_batch
from tests.support.networks import SmallConv, labelled, mlp, seeded, small_views


def test_forward_with_own_parameters_equals_the_model():
    for view in small_views().values():
        batch = view.read(labelled(view)[0])
        expected = view.module.eval()(*batch.inputs.values())
        torch.testing.assert_close(view.using("eval").forward(view.params(), batch), expected)
        torch.testing.assert_close(view.using("eval").forward({}, batch), expected)


def test_forward_uses_the_given_parameters():
    view = small_views()["mlp"]
    batch = view.read(labelled(view)[0])
    zeros = {name: torch.zeros_like(p) for name, p in view.params().items()}
    assert not view.forward(zeros, batch).any()
    assert view.forward({}, batch).any()


def test_batchnorm_modes():
    view = small_views()["conv"]
    norm = view.module.norm1
    with torch.no_grad():
        norm.running_mean.add_(2.0)
        norm.running_var.mul_(3.0)
    stored = copy.deepcopy(view.module.state_dict())
    batch = view.read(labelled(view)[0])

    twin = copy.deepcopy(view.module)
    outputs = {"eval": twin.eval()(*batch.inputs.values()), "batch": twin.train()(*batch.inputs.values())}
    twin.norm1.reset_running_stats()
    outputs["fresh"] = twin.eval()(*batch.inputs.values())
    for mode, expected in outputs.items():
        torch.testing.assert_close(view.using(mode).forward({}, batch), expected)
        assert all(torch.equal(v, stored[k]) for k, v in view.module.state_dict().items()), mode
    assert not torch.allclose(outputs["fresh"], outputs["eval"])


def test_probing_restores_every_mode_even_after_an_error():
    view = small_views()["conv"]
    view.module.train()
    view.module.conv2.eval()
    modes = [m.training for m in view.module.modules()]
    eval_mode = view.eval_mode()
    eval_mode.__enter__()
    assert not any(m.training for m in view.module.modules())
    assert eval_mode.__exit__(RuntimeError, RuntimeError(), None) is False
    assert [m.training for m in view.module.modules()] == modes


def test_select():
    view = describe(
        nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 2)), example=torch.zeros(1, 3).long()
    )
    assert view.prunable == ("1.weight", "2.weight"), "embeddings stay dense unless named"
    assert view.select(include=("embedding", "2.*")).prunable == ("0.weight", "2.weight")
    assert view.select(exclude=("2.*",), biases=True).prunable == ("1.weight", "1.bias")
    with pytest.raises(BadInput, match="'fc\\*' matches no weight name, no role and no stage"):
        view.select(include=("fc*",))
    with pytest.raises(BadInput, match="no weight is left"):
        view.select(exclude=("*",))


def test_lookup():
    view = describe(mlp())
    assert view["0.weight"].shape == (16, 12)
    with pytest.raises(UnknownName, match=r"did you mean 0\.weight"):
        view["0.weigth"]


@pytest.mark.parametrize(
    ("item", "labels"),
    [
        (torch.zeros(2, 3), None),
        ((torch.zeros(2, 3), torch.ones(2)), torch.ones(2)),
        ([torch.zeros(2, 3), torch.ones(2)], torch.ones(2)),
        ({"x": torch.zeros(2, 3), "label": torch.ones(2)}, torch.ones(2)),
        ({"x": torch.zeros(2, 3), "labels": torch.ones(2)}, torch.ones(2)),
        (Batch({"x": torch.zeros(2, 3)}), None),
    ],
    ids=["tensor", "tuple", "list", "label", "labels", "batch"],
)
def test_what_loaders_yield(item, labels):
    batch = as_batch(item, "x")
    assert batch.inputs["x"].shape == (2, 3)
    assert (batch.labels is None) if labels is None else torch.equal(batch.labels, labels)
    assert len(batch) == 2


@pytest.mark.parametrize("item", [(torch.zeros(1),), "text", {"labels": torch.zeros(1)}, {"x": 3}], ids=str)
def test_what_loaders_must_not_yield(item):
    with pytest.raises(BadInput, match=r"^a batch(:| is a tensor x)"):
        as_batch(item, "x")


def test_double_precision_modules_get_double_batches():
    view = describe(seeded(SmallConv()).double(), example=torch.zeros(1, 3, 8, 8))
    assert view.read(torch.zeros(2, 3, 8, 8)).inputs["x"].dtype is torch.float64


@pytest.mark.parametrize("name", ["levit_128s", "convit_tiny"])
@pytest.mark.slow
def test_what_modules_cache_in_evaluation_mode_is_not_used_for_other_parameters(name):
    """LeViT caches attention biases, ConViT relative positions: after a pass in float64 as well."""
    view = describe(open_model(f"timm:{name}", args={"num_classes": 10}))
    batch = view.example
    reinit_(view)  # LeViT's branches start closed: nothing in them would show
    with torch.no_grad():
        view.module.eval()(*batch.inputs.values())  # fills the caches before the view is used
        for key, parameter in view.module.named_parameters():
            if "bias" in key or "pos" in key:
                parameter.add_(torch.linspace(0, 1, parameter.numel()).reshape(parameter.shape))
    fresh = copy.deepcopy(view.module).train().eval()
    first = view.forward({}, batch)
    torch.testing.assert_close(first, fresh(*batch.inputs.values()))
    biases = {n: -p for n, p in view.params().items() if "bias" in n or "pos" in n}
    changed = view.forward(biases, batch)
    assert not torch.equal(changed, first)
    double = {n: p.double() for n, p in view.params().items()}
    torch.testing.assert_close(view.forward(double, batch.to("cpu", torch.float64)).float(), first)
    torch.testing.assert_close(view.forward({}, batch), first)
    torch.testing.assert_close(view.module.eval()(*batch.inputs.values()), first)


def test_tied_names_select_the_weight():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    module[1].weight = module[0].weight
    assert describe(module).select(include=("1.weight",)).prunable == ("0.weight",)


def test_stages_and_the_first_weight_can_be_named():
    view = describe(open_model("timm:test_resnet"))
    chosen = view.select(exclude=("first", "layer2.0", "head"))
    gone = set(view.prunable) - set(chosen.prunable)
    assert {view[name].stage for name in gone} == {"conv1.0", "layer2.0", "fc"}
    tokens = describe(
        nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 2)),
        example=torch.zeros(1, 3, dtype=torch.long),
    )
    assert tokens.select(exclude=("first",)).prunable == ("2.weight",)
