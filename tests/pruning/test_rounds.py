"""What a score keeps between rounds changes no bit of its scores."""

from __future__ import annotations

import pytest
import torch

from sigprune import Mask, describe, prune
from sigprune.base.registry import MemberSpec
from sigprune.base.rng import generator
from sigprune.families.allocations import allocations
from sigprune.families.patterns import patterns
from sigprune.families.schedules import schedules
from sigprune.pruning.scorer import Scorer
from sigprune.pruning.selector import Selector, sites
from sigprune.values.view import View
from tests.support.networks import SmallConv, seeded

SYNFLOW = [MemberSpec("synflow", {}), MemberSpec("synflow", {"damping": 0.5})]


def fresh(view: View, score: MemberSpec, mask: Mask) -> dict[str, torch.Tensor]:
    """The scores of a scorer that has seen no round."""
    return Scorer.of(view, score, "labels", 0)(mask, None, "0")


@pytest.mark.parametrize("score", SYNFLOW, ids=["plain", "damped"])
def test_rounds_give_the_mask_of_scores_made_anew(score):
    view = describe(seeded(SmallConv()))
    schedule = MemberSpec("exponential", {"rounds": 7})
    found = prune(view, sparsity=0.9, score=score, schedule=schedule, seed=3)
    mask = Mask.dense(view.prunable_shapes())
    plan = schedules.choose(schedule)
    select = Selector(sites(view), allocations.choose("pooled"), patterns.choose("unstructured"), 3)
    for number, budget in enumerate(plan.member.kept(mask.total, found.kept, **plan.options)):
        mask = select(fresh(view, score, mask), mask, budget, str(number))
    assert mask == found


@pytest.mark.parametrize("score", SYNFLOW, ids=["plain", "damped"])
def test_entries_that_return_are_scored_with_their_values(score):
    """No round of a pruning does that to this score; a scorer may be called with any mask."""
    view = describe(seeded(SmallConv()))
    scorer = Scorer.of(view, score, "labels", 0)
    draw = generator(0, "test", "masks")
    for density in (0.8, 0.5, 0.9, 0.9):
        keep = {n: torch.rand(s, generator=draw) < density for n, s in view.prunable_shapes().items()}
        found, expected = scorer(Mask(keep), None, "0"), fresh(view, score, Mask(keep))
        assert all(torch.equal(found[name], expected[name]) for name in expected)
