"""The contract of the scores, over every member, and each against a naive float64 reference."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from sigprune.base.errors import NeedsData
from sigprune.base.rng import generator
from sigprune.families.objectives import objectives
from sigprune.families.scores import scores
from sigprune.models.opening import describe
from sigprune.pruning.choose import prune
from sigprune.values.mask import Mask
from sigprune.values.problem import Problem
from sigprune.values.view import View
from tests.reference.scores import keep_top, snip_by_removal, synflow_of_mlp
from tests.support.networks import labelled, mlp, seeded, small_views


def problem(view: View, mask: Mask | None = None, data=None, objective: str = "labels") -> Problem:
    mask = mask or Mask.dense(view.prunable_shapes())
    return Problem(view, mask, generator(0, "test", "score"), objectives.get(objective).objective, data)


def evidence(name: str, view: View) -> list | None:
    return None if scores.get(name).NEEDS == "nothing" else labelled(view)


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("name", scores.names())
def test_contract(name, network):
    view = small_views()[network].select(biases=True)
    member = scores.get(name)
    ranked = member.score(problem(view, data=evidence(name, view)))
    assert {n: tuple(t.shape) for n, t in ranked.items()} == view.prunable_shapes()
    assert all(
        torch.isfinite(t).all() and t.is_floating_point() and not t.requires_grad for t in ranked.values()
    )
    again = member.score(problem(view, data=evidence(name, view)))
    assert all(torch.equal(ranked[n], again[n]) for n in ranked)
    assert member.PAPER


@pytest.mark.parametrize("name", scores.names())
def test_the_model_is_left_as_found(name):
    view = small_views()["conv"]
    module = view.module.train()
    module.norm1.eval()
    module.head.bias.grad = torch.ones(4)
    before = copy.deepcopy(module.state_dict())
    modes = [m.training for m in module.modules()]
    state = torch.get_rng_state()
    scores.get(name).score(problem(view, data=evidence(name, view)))
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before), "parameters, buffers and statistics"
    assert [m.training for m in module.modules()] == modes
    assert torch.equal(module.head.bias.grad, torch.ones(4))
    assert module.conv1.weight.grad is None
    assert all(p.requires_grad for p in module.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._backward_hooks for m in module.modules())


@pytest.mark.parametrize("name", scores.names())
def test_needs_is_the_truth(name):
    view = small_views()["mlp"]
    if scores.get(name).NEEDS == "nothing":
        scores.get(name).score(problem(view, data=None))
    else:
        with pytest.raises(NeedsData, match="needs data"):
            scores.get(name).score(problem(view, data=None))
        with pytest.raises(NeedsData, match="hold no batch"):
            scores.get(name).score(problem(view, data=[]))


@pytest.mark.parametrize("name", scores.names())
def test_frozen_parameters_are_scored_as_others(name):
    view = small_views()["conv"]
    expected = scores.get(name).score(problem(view, data=evidence(name, view)))
    view.module.requires_grad_(False)
    frozen = scores.get(name).score(problem(view, data=evidence(name, view)))
    assert all(torch.equal(frozen[n], expected[n]) for n in expected)


@pytest.mark.parametrize("most", [20, pytest.param(10**9, marks=pytest.mark.slow)], ids=["some", "all"])
def test_snip_is_the_effect_of_removal(most):
    """|w dL/dw| summed over batches before the absolute value, in eval mode with fresh statistics."""
    view = small_views()["conv"]
    view.module.norm1.running_mean.add_(3.0)  # the stored statistics must not matter
    view.module.train()
    data = labelled(view)
    ranked = scores.get("snip").score(problem(view, data=data))
    for name in view.prunable:
        found = ranked[name].double().flatten()
        entries = torch.randperm(len(found), generator=generator(0, "test", name))[:most]
        reference = snip_by_removal(view.module, name, data, entries.tolist())
        torch.testing.assert_close(found[entries], reference, rtol=1e-3, atol=1e-6)


def test_snip_uniform_target_needs_no_labels():
    view = small_views()["conv"]
    unlabelled = [x for x, _ in labelled(view)]
    ranked = scores.get("snip").score(problem(view, data=unlabelled, objective="uniform"))
    assert all(bool(t.any()) for t in ranked.values())


def test_synflow_is_the_sum_over_paths():
    module = seeded(mlp(activation=nn.ReLU))
    view = describe(module)
    keep = {
        n: torch.rand(s, generator=generator(0, "test", n)) < 0.6 for n, s in view.prunable_shapes().items()
    }
    ranked = scores.get("synflow").score(problem(view, Mask(keep)))
    linears = [m for m in module if isinstance(m, nn.Linear)]
    masks = [keep[n] for n in view.prunable]
    expected = synflow_of_mlp([m.weight.data for m in linears], [m.bias.data for m in linears], masks)
    for name, reference in zip(view.prunable, expected, strict=True):
        torch.testing.assert_close(ranked[name], reference)


def test_synflow_is_conserved_layer_by_layer():
    """Without biases, the scores into a hidden unit equal those out of it (Tanaka et al. 2020, theorem 1)."""
    module = nn.Sequential(nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Linear(9, 3, bias=False))
    ranked = list(scores.get("synflow").score(problem(describe(seeded(module)))).values())
    torch.testing.assert_close(ranked[0].sum(1), ranked[1].sum(0))


@pytest.mark.parametrize("sparsity", [pytest.param(0.3, marks=pytest.mark.slow), 0.9])
def test_masks_equal_those_of_naive_references(sparsity):
    """SNIP, SynFlow and magnitude: float64 definitions, full sort, the same entries kept."""
    view = describe(seeded(mlp((6, 9, 9, 4), activation=nn.ReLU)))
    data = labelled(view)
    count = round(sum(w.count for w in view.weights) * (1 - sparsity))
    linears = [m for m in view.module if isinstance(m, nn.Linear)]
    ones = [torch.ones_like(m.weight, dtype=torch.bool) for m in linears]
    flow = synflow_of_mlp([m.weight.data for m in linears], [m.bias.data for m in linears], ones)
    references = {
        "magnitude": {
            n: p.detach().double().abs() for n, p in view.module.named_parameters() if p.dim() == 2
        },
        "snip": {
            n: snip_by_removal(view.module, n, data, range(math.prod(shape))).reshape(shape)
            for n, shape in view.prunable_shapes().items()
        },
        "synflow": dict(zip(view.prunable, flow, strict=True)),
    }
    for score, reference in references.items():
        mask = prune(view, sparsity=sparsity, score=score, schedule="oneshot", batches=data)
        expected = Mask(keep_top(reference, count))
        assert mask.kept == count
        assert mask.jaccard(expected) == 1.0, score
