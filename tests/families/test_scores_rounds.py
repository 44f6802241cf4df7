"""Scores in rounds: entries that return, a score's own schedule, elasticities."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from sigprune.base.errors import BadScores
from sigprune.base.registry import MemberSpec
from sigprune.base.rng import generator
from sigprune.base.tensors import Tensors
from sigprune.families.objectives import objectives
from sigprune.families.schedules import schedules
from sigprune.families.scores import own_schedule, scores
from sigprune.models.opening import describe
from sigprune.pruning.choose import prune
from sigprune.values.batch import Batch
from sigprune.values.mask import Mask
from sigprune.values.problem import Problem
from sigprune.values.view import View
from tests.support.networks import labelled, mlp, seeded, small_views


def problem(view: View, mask: Mask, data: list, objective: str = "labels") -> Problem:
    return Problem(view, mask, generator(0, "test", "score"), objectives.get(objective).objective, data)


def seen_by(monkeypatch, name: str, view: View, **options) -> list[Mask]:
    """The masks that the rounds of a score start from, and the last one."""
    member, masks = scores.get(name), []
    inner = member.score

    def noted(problem: Problem, **given: object) -> Tensors:
        masks.append(problem.mask)
        return inner(problem, **given)

    monkeypatch.setattr(member, "score", noted)
    return [*masks, last] if (last := prune(view, score=name, **options)) and masks else []


def distance_from(targets: Tensor) -> ModuleType:
    """An objective: half the squared distance of the output from the targets."""
    module = ModuleType("distance")

    def objective(output: Tensor, batch: Batch) -> Tensor:
        return (output - targets).square().sum() / 2

    module.objective = objective
    return module


def three_outputs() -> tuple[View, dict]:
    """Weights 1, 0.1 and 1 on one input of 1; the first is almost at its target of 1.05."""
    layer = nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [0.1], [1.0]]))
    plan = {"schedule": MemberSpec("exponential", {"rounds": 2}), "sparsity": 0.3333}  # keeps 2 of 3, twice
    return describe(layer), plan | {
        "batches": [torch.ones(1, 1)], "objective": distance_from(torch.tensor([[1.05, 0.7, 5.0]])),
    }  # fmt: skip


def test_force_takes_back_what_is_missed():
    """|1 · 0.05| is the lowest score, so that the first weight goes; without it |1 · 1.05| is not."""
    view, plan = three_outputs()
    assert prune(view, score="snip", **plan).keep["weight"].flatten().tolist() == [False, True, True]
    assert prune(view, score="force", **plan).keep["weight"].flatten().tolist() == [True, False, True]


def test_entries_return_only_where_the_score_says_so(monkeypatch):
    view = small_views()["conv"]
    plan = {"sparsity": 0.9, "batches": labelled(view), "schedule": MemberSpec("exponential", {"rounds": 6})}
    for name in ("snip", "force"):
        masks = seen_by(monkeypatch, name, view, **plan)
        assert len(masks) == 7
        nested = all((a & b) == b for a, b in itertools.pairwise(masks))
        assert nested == (scores.get(name).REMOVED == "stay"), name
        assert [m.kept for m in masks] == sorted((m.kept for m in masks), reverse=True)


def test_the_first_round_of_force_is_that_of_snip():
    view = small_views()["conv"]
    given = problem(view, Mask.dense(view.prunable_shapes()), labelled(view))
    force, snip = (scores.get(name).score(given) for name in ("force", "snip"))
    assert all(torch.equal(force[n], snip[n]) for n in snip)


def test_force_scores_what_was_removed_with_its_dense_value():
    view = small_views()["mlp"]
    draws = {n: torch.rand(s, generator=generator(0, "test", n)) for n, s in view.prunable_shapes().items()}
    mask, data = Mask({n: d < 0.5 for n, d in draws.items()}), labelled(view)
    force, snip = (scores.get(n).score(problem(view, mask, data)) for n in ("force", "snip"))
    for name, keep in mask.keep.items():
        assert torch.equal(force[name][keep], snip[name][keep])
        assert not snip[name][~keep].any()
        assert float((force[name][~keep] > 0).double().mean()) > 0.9


@pytest.mark.parametrize("name", scores.names())
def test_every_score_says_what_becomes_of_removed_entries(name):
    assert scores.get(name).REMOVED in {"stay", "may return"}
    facts = scores.read(name).facts
    assert facts["REMOVED"] == scores.get(name).REMOVED
    step = own_schedule(facts)
    assert step == own_schedule(vars(scores.get(name)))
    schedules.resolve(step)


def test_scores_bring_their_own_rounds(monkeypatch):
    assert own_schedule(scores.read("snip_it").facts) == MemberSpec("halving")
    rounds = {"force": 60, "ntk_sap": 20}
    view = describe(seeded(mlp((3, 4, 4))))
    for name, count in rounds.items():
        assert own_schedule(scores.read(name).facts) == MemberSpec("exponential", {"rounds": count})
        assert len(seen_by(monkeypatch, name, view, sparsity=0.5, batches=labelled(view))) == count + 1


def test_elasticities_are_sensitivities_over_the_loss():
    view = small_views()["conv"]
    data, labels = labelled(view), objectives.get("labels").objective
    given = problem(view, Mask.dense(view.prunable_shapes()), data)
    elastic, snip = (scores.get(name).score(given) for name in ("snip_it", "snip"))
    with torch.no_grad():
        batches = [view.read(b) for b in data]
        losses = [float(labels(view.forward({}, b), b)) * len(b) for b in batches]
    mean = sum(losses) / sum(map(len, batches))
    for name in snip:
        torch.testing.assert_close(elastic[name], snip[name] / mean)
    plan = {"sparsity": 0.9, "batches": data}
    assert prune(view, score="snip_it", **plan) == prune(view, score="snip", schedule="halving", **plan)


def test_a_loss_of_zero_has_no_elasticity():
    layer = nn.Linear(2, 2)
    plan = {"objective": distance_from(layer(torch.ones(1, 2)).detach()), "batches": [torch.ones(1, 2)]}
    with pytest.raises(BadScores, match="expected a loss other than zero"):
        prune(describe(layer), sparsity=0.5, score="snip_it", **plan)
