"""What other codes fall into, for every score: half precision, dropout, tied and closed weights..."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from sigprune.base.errors import BadInput, BadScores, NeedsData
from sigprune.families.scores import own_schedule, scores
from sigprune.models.opening import describe
from sigprune.pruning.choose import DeadWeights, prune
from sigprune.values.view import View
from tests.support.networks import SmallConv, checkpointing, labelled, seeded

GRADIENTS = [name for name in scores.names() if scores.get(name).NEEDS == "objective" and name != "prospr"]
"""Scores that differentiate an objective at the values as they are (ProsPr's steps open closed gates)."""


def mask_of(name: str, view: View, sparsity: float = 0.5, **plan):
    data = None if scores.get(name).NEEDS == "nothing" else labelled(view)
    return prune(view, sparsity=sparsity, score=name, batches=data, **plan)


def conv(module: nn.Module) -> View:
    return describe(module, example=torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("name", scores.names())
def test_half_precision_ranks_as_single_does(name):
    module = seeded(SmallConv()).bfloat16()  # the same values in both
    half, single = conv(module), conv(copy.deepcopy(module).float())
    masks = mask_of(name, half, schedule="oneshot"), mask_of(name, single, schedule="oneshot")
    assert masks[0].kept == masks[1].kept == round(masks[0].total / 2)
    assert masks[0].jaccard(masks[1]) > 0.85
    assert all(p.dtype is torch.bfloat16 for p in module.parameters())


class Dropping(SmallConv):
    """With noise while it trains."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, self.training))


@pytest.mark.parametrize("name", scores.names())
def test_dropout_is_off_while_scoring(name):
    module = seeded(Dropping())
    quiet = mask_of(name, conv(module.eval()))
    assert mask_of(name, conv(module.train())) == quiet
    assert module.training


class Tied(nn.Module):
    """One matrix, used twice and known by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.two(torch.tanh(self.one(x)))))


@pytest.mark.parametrize("name", scores.names())
def test_tied_weights_are_scored_once_for_both_uses(name):
    view = describe(seeded(Tied()))
    mask = mask_of(name, view)
    assert set(mask.keep) == {"one.weight", "head.weight"}
    assert view["two.weight"].name == "one.weight"


def test_the_sensitivity_of_a_tied_weight_is_that_of_both_uses():
    view = describe(seeded(Tied()).double())
    data = [(x.double(), y) for x, y in labelled(view)]
    twin = copy.deepcopy(view.module)
    sum(nn.functional.cross_entropy(twin(x), y) for x, y in data).backward()
    expected = {n: (p * p.grad).abs() for n, p in twin.named_parameters() if n in view.prunable}
    best = torch.cat([t.flatten() for t in expected.values()]).topk(30).indices
    mask = prune(view, sparsity=0.5, score="snip", batches=data)
    found = torch.cat([mask.keep[name].flatten() for name in expected]).nonzero().squeeze(1)
    assert mask.kept == 30
    assert set(found.tolist()) == set(best.tolist())


@pytest.mark.parametrize("name", scores.names())
def test_checkpointed_networks_are_scored_as_others(name):
    config = ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, num_labels=4,
    )  # fmt: skip
    module = seeded(ViTForImageClassification(config)).train()
    schedule = own_schedule(vars(scores.get(name)))
    few = replace(schedule, options={"rounds": 3}) if schedule.options else schedule
    plain = mask_of(name, describe(module), schedule=few)
    assert mask_of(name, describe(checkpointing(module)), schedule=few) == plain
    assert module.training


@pytest.mark.parametrize("name", scores.names())
def test_values_that_are_not_finite_are_named(name):
    if name == "random":
        pytest.skip("reads no value")
    module = seeded(SmallConv())
    with torch.no_grad():
        module.conv2.weight[0, 0, 1, 1] = torch.nan
    with pytest.raises(BadScores, match=r"conv2\.weight"):
        mask_of(name, conv(module))


@pytest.mark.parametrize("name", GRADIENTS)
def test_closed_gates_are_told(name):
    """The last norm of every residual branch is zero, as timm initialises it."""
    model = timm.create_model("test_resnet", num_classes=4, in_chans=3)
    view = describe(model, example=torch.zeros(1, 3, 32, 32))
    assert any(gate.closed for gate in view.gates)
    with pytest.warns(DeadWeights, match="a closed gate"):
        prune(view, sparsity=0.5, score=name, batches=labelled(view, 4, 4), schedule="oneshot")


class Idle(nn.Module):
    """A layer that the output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


@pytest.mark.parametrize("name", [*GRADIENTS, "prospr", "synflow", "ntk_sap"])
def test_weights_that_nothing_depends_on_are_told(name):
    view = describe(seeded(Idle()), example=torch.zeros(1, 6)).select(include=("idle.weight",))
    with pytest.warns(DeadWeights, match="a part that the output does not depend on"):
        mask_of(name, view)


@pytest.mark.parametrize("name", scores.names())
def test_exact_counts_at_the_ends(name):
    view = describe(seeded(Tied()))
    total = 60
    for kept in (0, 1, total - 1, total):
        sparsity = 1 - kept / total
        if kept == 0:
            with pytest.raises(BadInput, match="expected 0 <= sparsity < 1"):
                mask_of(name, view, sparsity=sparsity)
        else:
            assert mask_of(name, view, sparsity=sparsity).kept == kept


def test_no_data_is_not_forgiven():
    with pytest.raises(NeedsData):
        prune(describe(seeded(Tied())), sparsity=0.5, score="wanda")
