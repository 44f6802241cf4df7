"""Pruning: exact counts, purity, ties, gates, every sensible composition."""

from __future__ import annotations

import copy
import itertools
import math
import warnings

import pytest
import torch
from torch import nn

from sigprune.base.errors import BadInput, DataError, NeedsData, UnknownName
from sigprune.base.registry import MemberSpec
from sigprune.families.schedules import schedules
from sigprune.families.scores import scores
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe, open_model
from sigprune.pruning.choose import DeadWeights, apply_, prune
from tests.support.grids import thinned
from tests.support.networks import SmallConv, labelled, mlp, seeded, small_views


@pytest.mark.parametrize(
    ("score", "allocation", "schedule"),
    thinned(scores.names(), ["pooled", "erk"], schedules.names(), about=3),  # more: test_composing
)
def test_every_composition_keeps_exactly_the_count(score, allocation, schedule):
    view = small_views()["conv"]
    steps = {"score": score, "allocation": allocation}
    takes = schedules.read(schedule).options
    steps["schedule"] = MemberSpec(schedule, {"rounds": 3} if "rounds" in takes else {})
    before = copy.deepcopy(view.module.state_dict())
    data = labelled(view)
    masks = [prune(view, sparsity=0.8, batches=data, seed=seed, **steps) for seed in (0, 0)]
    total = sum(w.count for w in view.weights)
    assert masks[0].kept == round(total * 0.2)
    assert masks[0].keep.keys() == set(view.prunable)
    assert masks[0] == masks[1]
    after = view.module.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)


@pytest.mark.parametrize("sparsity", [0.0, 0.001, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("score", ["magnitude", "synflow"])
def test_counts_are_exact_at_every_sparsity(sparsity, score):
    view = describe(seeded(mlp(activation=nn.ReLU)))
    mask = prune(view, sparsity=sparsity, score=score)
    assert mask.kept == round(mask.total * (1 - sparsity))


def test_a_removed_entry_never_comes_back(monkeypatch):
    """The masks that the rounds see are nested."""
    view = describe(seeded(mlp(activation=nn.ReLU)))
    seen = []
    member = scores.get("random")
    inner = member.score
    monkeypatch.setattr(member, "score", lambda problem: (seen.append(problem.mask), inner(problem))[1])
    seen.append(prune(view, sparsity=0.9, score="random", schedule=MemberSpec("exponential", {"rounds": 4})))
    assert [m.kept for m in seen] == sorted((m.kept for m in seen), reverse=True)
    assert len(seen) == 5
    for earlier, later in itertools.pairwise(seen):
        assert (earlier & later) == later


def test_equal_scores_keep_no_layer_in_particular():
    view = describe(mlp())
    with torch.no_grad():
        for p in view.module.parameters():
            p.fill_(1.0)
    mask = prune(view, sparsity=0.5, score="magnitude")
    for name, (kept, total) in mask.counts().items():
        assert abs(kept - total / 2) < 5 * math.sqrt(total / 4), name
    assert mask != prune(view, sparsity=0.5, score="magnitude", seed=1)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, math.nan])
def test_sparsity_outside_its_range(sparsity):
    with pytest.raises(BadInput, match=r"expected 0 <= sparsity < 1, got"):
        prune(describe(mlp()), sparsity=sparsity, score="magnitude")


def test_bad_input():
    view = describe(mlp())
    with pytest.raises(NeedsData, match="choose a data-free score"):
        prune(view, sparsity=0.5, score="snip")
    with pytest.raises(UnknownName, match="did you mean synflow"):
        prune(view, sparsity=0.5, score="synflw")
    with pytest.raises(NeedsData, match="'uniform' does without"):
        prune(view, sparsity=0.5, score="snip", batches=[torch.zeros(2, 12)])


def test_nan_in_the_data_is_named():
    view = describe(mlp())
    batch = (torch.full((2, 12), math.nan), torch.zeros(2, dtype=torch.long))
    with pytest.raises(DataError, match=r"input holds 24 of 24 values that are NaN or infinite"):
        prune(view, sparsity=0.5, score="snip", batches=[batch])


def test_one_shot_iterators_serve_every_round():
    view = small_views()["conv"]
    rounds = MemberSpec("exponential", {"rounds": 3})
    expected = prune(view, sparsity=0.5, batches=labelled(view), schedule=rounds)
    assert prune(view, sparsity=0.5, batches=iter(labelled(view)), schedule=rounds) == expected


def test_zero_biases_go_first():
    """A zero bias has a zero score, so that all biases are pruned, as the paper's code does."""
    view = describe(seeded(SmallConv()), example=torch.zeros(1, 3, 8, 8)).select(biases=True)
    reinit_(view)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask = prune(view, sparsity=0.9, batches=labelled(view))
    assert mask.counts()["head.bias"] == (0, 4)


def test_apply_sets_zeros():
    view = describe(seeded(mlp()))
    mask = prune(view, sparsity=0.7, score="random")
    apply_(view, mask)
    mask.check(view.params())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "deit3_small_patch16_224"])
@pytest.mark.slow
def test_closed_gates_prune_no_branch_in_silence(name):
    """Naive SNIP on timm's defaults loses 48 of 54 layers of resnet50, 24 of 50 of deit3_small, and prunes
    nothing of resnet18. Here: gates kept closed are a warning, gates opened leave every layer alive."""
    size = 64 if name.startswith("resnet") else 224
    view = describe(open_model(f"timm:{name}", args={"num_classes": 10}))
    draw = torch.Generator().manual_seed(0)
    batch = (torch.randn(2, 3, size, size, generator=draw), torch.tensor([1, 7]))
    reinit_(view, "orthogonal", gates="keep")
    if name.startswith("resnet"):
        with pytest.warns(DeadWeights, match="every entry of .* weights has the score zero"):
            closed = prune(view, sparsity=0.9, batches=[batch])
        assert closed.kept == round(closed.total * 0.1), "ties never change the count"
    reinit_(view, "orthogonal", gates="open")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask = prune(view, sparsity=0.9, batches=[batch])
    assert mask.kept == round(mask.total * 0.1)
    collapsed = [n for n, (kept, _) in mask.counts().items() if kept == 0]
    assert not collapsed
