"""Choosing a mask: score, allocate, select; once or in rounds."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from operator import length_hint
from types import ModuleType

import torch

from sigprune.base import distributed
from sigprune.base.errors import BadInput
from sigprune.base.progress import CountedIterable, ProgressCallback, ignore
from sigprune.base.registry import BoundMember, MemberSpec
from sigprune.families.allocations import Allocation, allocations
from sigprune.families.patterns import Pattern, patterns
from sigprune.families.schedules import schedules
from sigprune.families.scores import own_composition, own_schedule, scores
from sigprune.propagation.emptied import EmptiedWeights, emptied
from sigprune.propagation.unranked import Unranked, rank_unrouted_, unranked
from sigprune.pruning.scorer import Scorer
from sigprune.pruning.selector import (
    Selector,
    check_compatibility,
    expect_no_empty_filter,
    expect_sparsity,
    sites,
)
from sigprune.values.batch import BatchLike, expect_batches
from sigprune.values.layout import Shape
from sigprune.values.mask import Mask
from sigprune.values.origin import WeightsOrigin, same_origin
from sigprune.values.view import View, expect_no_parametrised, expect_view

StepLike = str | MemberSpec | ModuleType


class DeadWeights(UserWarning):
    """Every entry of some weight or block has the score zero, so that the score cannot rank them."""


class UnroutedExperts(UserWarning):
    """No example reached some experts, so that they are ranked by magnitude."""


@dataclass(frozen=True)
class Method:
    """How a mask is chosen: one member of each family; None takes what fits the score."""

    score: StepLike = "snip"
    allocation: StepLike | None = None
    pattern: StepLike | None = None
    schedule: StepLike | None = None
    objective: StepLike = "labels"

    def choices(self, origin: WeightsOrigin) -> tuple[BoundMember[Allocation], BoundMember[Pattern]]:
        """The allocation and the pattern, for weights of this origin."""
        own = own_composition(vars(scores.choose(self.score).member), origin)
        return allocations.choose(self.allocation or own[0]), patterns.choose(self.pattern or own[1])


@dataclass(frozen=True, eq=False)
class Pruned:
    """A mask, and what got no scores in the first round."""

    mask: Mask
    unranked: Unranked = Unranked()  # noqa: RUF009 - frozen


def prune(
    view: View,
    *,
    sparsity: float,
    score: StepLike = "snip",
    allocation: StepLike | None = None,
    pattern: StepLike | None = None,
    schedule: StepLike | None = None,
    batches: Iterable[BatchLike] | None = None,
    objective: StepLike = "labels",
    seed: int = 0,
) -> Mask:
    """Choose which entries of the prunable weights to keep; the model is not changed.

    Args:
        view: the network; ``view.prunable`` says what may be removed.
        sparsity: fraction of the prunable entries to remove, in [0, 1). Exactly
            round(entries · (1 - sparsity)) are kept; fewer by less than one unit under the patterns ``block``
            and ``channel``. Of a weight that its module divides by norms (weight and spectral normalisation)
            each filter keeps an entry: a filter of zeros would be 0 / 0. Patterns of whole units that empty
            one are refused.
        score: what ranks the entries (higher = keep).
        allocation: how many entries each weight keeps; None takes what fits the score: ``pooled``, or
            ``uniform`` for ``wanda`` and for ``magnitude`` of pretrained weights (``view.weights_origin``).
        pattern: where the kept entries of a weight may sit; None takes ``unstructured``, or ``per_row`` for
            ``wanda``.
        schedule: how many entries each round keeps; None takes the score's own.
        batches: what a data loader yields, read once per round; only for scores that need data.
        objective: the scalar that a data-driven score differentiates.
        seed: equal seeds give equal masks; it also breaks ties, so that position never does.

    Returns:
        Mask over ``view.prunable``. Cost: one score pass and two linear-time selections per round.

    Raises:
        BadInput: a sparsity outside [0, 1) or that keeps nothing, or parts that do not go together; says why.
        NeedsData: a score or objective needs data that was not given.
        BadScores: a score is not finite or does not fit the weights.

    Warns:
        DeadWeights: all scores of a weight or block are zero (a closed gate, a dead unit): its entries are
            then kept or removed at random.
        UnroutedExperts: no example reached an expert: its entries are then ranked by magnitude.
        EmptiedWeights: nothing is kept of a weight, of a block, or of any path from the input to the output.

    Example:
        >>> from sigprune import describe, prune
        >>> layers = torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)
        >>> view = describe(torch.nn.Sequential(*layers))
        >>> batches = [(torch.randn(32, 8), torch.randint(0, 4, (32,)))]
        >>> mask = prune(view, sparsity=0.75, score="snip", batches=batches)
        >>> mask.kept, mask.total
        (48, 192)
    """
    method = Method(score, allocation, pattern, schedule, objective)
    pruned = choose_mask(view, sparsity, method, batches, seed=seed)
    warnings_of = {
        DeadWeights: str(pruned.unranked),
        UnroutedExperts: pruned.unranked.unrouted_warning,
        EmptiedWeights: str(emptied(view, pruned.mask)),
    }
    for category, words in warnings_of.items():
        if words:
            warnings.warn(words, category, stacklevel=2)
    return pruned.mask


def choose_mask(
    view: View,
    sparsity: float,
    method: Method,
    batches: Iterable[BatchLike] | None,
    *,
    seed: int,
    on_progress: ProgressCallback = ignore,
) -> Pruned:
    """As :func:`prune`, with what cannot be ranked returned instead of warned about.

    ``on_progress`` is called with (batches read, batches in all), or with rounds for scores without data.
    """
    expect_view(view)
    expect_no_parametrised(view)
    expect_sparsity(sparsity)
    expect_batches(batches)
    if isinstance(batches, Iterator):
        batches = list(batches)  # a later round reads them again
    shapes = view.prunable_shapes()
    if not shapes:
        raise BadInput(
            "the view has no prunable weight; embeddings, and heads of pretrained networks, are pruned only "
            "if they are named: view.select(include=...)"
        )
    scorer = Scorer.of(view, method.score, method.objective, seed)
    plan = schedules.choose(method.schedule or own_schedule(vars(scorer.score.member)))
    allocation, pattern = method.choices(view.weights_origin)
    mask = everything = _everything(shapes)
    target = entries_kept(mask.total, sparsity)
    found = Unranked()
    budgets = plan.member.kept(mask.total, target, **plan.options)
    check_compatibility(pattern, allocation, plan)
    select = Selector(sites(view), allocation, pattern, seed)
    select.expect_affordable(target)
    each = max(length_hint(batches), 1) if scorer.score.member.NEEDS != "nothing" else 1
    returning = scorer.score.member.REMOVED == "may return"
    for number, budget in enumerate(budgets):
        advance = partial(_advance, on_progress, number * each, len(budgets) * each)
        ranked = scorer(mask, None if batches is None else CountedIterable(batches, advance), str(number))
        unrouted = rank_unrouted_(view, ranked, mask)
        if number == 0:
            found = unranked(view, ranked, unrouted)
        mask = select(ranked, everything if returning else mask, budget, str(number))
        advance(each)
    distributed.expect_equal(mask.digest, "the mask")
    return Pruned(mask, found)


def rescore(
    view: View,
    mask: Mask,
    kept: Mapping[str, int],
    method: Method,
    batches: Iterable[BatchLike] | None,
    *,
    seed: int,
    lowest: bool = False,
) -> Mask:
    """Choose the entries of some weights anew, in one round, with the others as the mask has them.

    Args:
        view: the network.
        mask: over its prunable weights; those chosen anew are dense in it.
        kept: name -> how many entries to keep, of the weights to choose anew.
        method: score, objective and pattern.
        batches: what a data loader yields, if the score needs data.
        seed: equal seeds give equal masks.
        lowest: keep the lowest scores instead (the inversion of Frankle et al. 2021, arXiv 2009.08576).
    """
    expect_view(view)
    allocation, pattern = method.choices(view.weights_origin)
    ranked = Scorer.of(view, method.score, method.objective, seed)(mask, batches, "again")
    rank_unrouted_(view, ranked, mask)
    select = Selector(sites(view), allocation, pattern, seed)
    return Mask({**mask.keep, **select.of_counts(ranked, kept, "again", lowest=lowest).keep})


def dry_run(view: View, sparsity: float, method: Method) -> None:
    """Select once without scores: what an allocation or a pattern refuses is refused before hours of scoring.

    Raises:
        BadInput: they do.
    """
    allocation, pattern = method.choices(view.weights_origin)
    shapes = view.prunable_shapes()
    dense, zeros = Mask.dense(shapes), {name: torch.zeros(shape) for name, shape in shapes.items()}
    target = entries_kept(dense.total, sparsity)
    Selector(sites(view), allocation, pattern, 0)(zeros, dense, target, "rehearsal")


def entries_kept(total: int, sparsity: float) -> int:
    """How many of so many entries a sparsity keeps.

    Raises:
        BadInput: none.
    """
    kept = round(total * (1 - Fraction(str(sparsity))))
    if not kept:
        most = f"expected at most {1 - 1 / total:.6g}"
        raise BadInput(f"sparsity {sparsity} keeps none of {total:,} prunable entries: {most}")
    return kept


def _everything(shapes: Mapping[str, Shape]) -> Mask:
    """The dense mask to start from; each tensor is one True, expanded: no memory. Not returned."""
    return Mask({name: torch.ones((), dtype=torch.bool).expand(shape) for name, shape in shapes.items()})


def _advance(on_progress: ProgressCallback, before: int, total: int, count: int) -> None:
    on_progress(before + count, total)


def apply_(view: View, mask: Mask) -> None:
    """Set the removed entries of the model to +0.0, in place.

    Example:
        >>> from sigprune import apply_, describe, prune
        >>> view = describe(torch.nn.Linear(4, 4))
        >>> apply_(view, prune(view, sparsity=0.5, score="magnitude"))
        >>> int((view.module.weight == 0).sum())
        8
    """
    expect_view(view, sharded=True)
    expect_no_empty_filter(view, mask)
    with same_origin(view.module):
        mask.apply_(view.params())
