"""Selecting: from scores and a number to the entries that are kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import cast

import torch
from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.base.registry import BoundMember, MemberSpec
from sigprune.base.rng import generator
from sigprune.base.tensors import Tensors
from sigprune.families.allocations import Allocation
from sigprune.families.patterns import Allocate, FixedPattern, Pattern
from sigprune.families.schedules import Schedule
from sigprune.values.compatibility import incompatibility
from sigprune.values.layout import Shape
from sigprune.values.mask import Mask
from sigprune.values.ranking import Ranking, Site
from sigprune.values.view import View


@dataclass(frozen=True, eq=False)
class Selector:
    """An allocation and a pattern for the weights of one network.

    Attributes:
        sites: prunable name -> what the tensor is.
        allocation: how many entries each weight keeps.
        pattern: where they may sit.
        seed: of the streams that break ties.
    """

    sites: Mapping[str, Site]
    allocation: BoundMember[Allocation]
    pattern: BoundMember[Pattern]
    seed: int

    def __call__(self, ranked: Tensors, mask: Mask, budget: int, draw: str) -> Mask:
        """The best ``budget`` entries of those that the mask keeps.

        Args:
            ranked: name -> scores; emptied and written into, so that no second copy of them is held.
            mask: candidates; what it removes stays removed.
            budget: entries to keep; no more than the mask keeps (a pattern of whole units may have kept less
                than an earlier round allowed).
            draw: names the random streams of this round.

        Memory besides the scores: a mask (one byte per entry) and passes in chunks; scores are dropped as
        their masks are made.
        """
        counts = mask.counts()
        capacity = {name: kept for name, (kept, _) in counts.items()}
        left = {name: mask.keep[name] for name, (kept, total) in counts.items() if kept < total}
        scores = {name: ranked.pop(name) for name in list(ranked)}
        ranking = self._ranking(scores, capacity, min(budget, sum(capacity.values())), draw, left)
        return self._checked(self.pattern.member.select(ranking, self._allocate, **self.pattern.options))

    def counts(self, shapes: Mapping[str, Shape], budget: int, draw: str) -> dict[str, int]:
        """How many entries each weight keeps, where no scores are asked for that.

        Args:
            shapes: of all weights; nothing was removed yet.
            budget: entries to keep in all.
            draw: as above.

        Raises:
            BadInput: the allocation looks at scores, or the sparsity is none that it or the pattern has.
        """
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        scores = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        ranking = self._ranking(scores, sizes, budget, draw)
        if self.pattern.member.COUNTS == "fixed":
            return cast(FixedPattern, self.pattern.member).counts(ranking, **self.pattern.options)
        try:
            return self._allocate(ranking)
        except (RuntimeError, NotImplementedError) as error:  # of values that the meta device does not have
            raise BadInput(f"the allocation {self.allocation.name!r} needs scores to count with") from error

    def of_counts(self, ranked: Tensors, kept: Mapping[str, int], draw: str, *, lowest: bool = False) -> Mask:
        """The best entries of some weights, of which it is known how many to keep; nothing was removed yet.

        Args:
            ranked: name -> scores, of at least the weights to choose for.
            kept: name -> entries to keep.
            draw: as above.
            lowest: the worst entries instead.
        """
        scores = {name: -ranked[name] if lowest else ranked[name] for name in kept}
        sizes = {name: values.numel() for name, values in scores.items()}
        ranking = self._ranking(scores, sizes, sum(kept.values()), draw)
        return self._checked(
            self.pattern.member.select(ranking, lambda _: dict(kept), **self.pattern.options)
        )

    def expect_affordable(self, budget: int) -> None:
        """Make sure that every filter that is divided by its norm can keep an entry.

        Raises:
            BadInput: there are more of them than entries to keep.
        """
        least = self._least(self.sites)
        if sum(least.values()) > budget:
            raise BadInput(
                f"a budget of {budget} entries is less than the {sum(least.values())} filters of "
                f"{len(least)} weights (first {min(least)}) that are divided by their norms, and each "
                "of them keeps an entry: lower the sparsity, or exclude them"
            )

    def _least(self, names: Iterable[str]) -> dict[str, int]:
        """Name -> filters that keep an entry each; patterns that round to whole units cannot see to that."""
        if self.pattern.member.COUNTS != "exact":
            return {}
        sites = {name: self.sites[name] for name in names}
        return {name: site.filters for name, site in sites.items() if site.divided is not None}

    def _allocate(self, ranking: Ranking) -> dict[str, int]:
        """What the allocation gives, but to no weight fewer entries than it has filters to keep alive."""
        allocate: Allocate = partial(self.allocation.member.allocate, **self.allocation.options)
        least = self._least(ranking.scores)
        fixed: dict[str, int] = {}
        while True:
            counts = allocate(_without(ranking, fixed) if fixed else ranking)
            # whoever falls short now falls short with what is left for fewer weights, too
            short = {name: least[name] for name, count in counts.items() if count < least.get(name, 0)}
            fixed |= short
            if not short:
                return {name: (counts | fixed)[name] for name in ranking.scores}

    def _checked(self, masks: dict[str, Tensor]) -> Mask:
        for name, keep in masks.items():
            axes = self.sites[name].divided
            if axes is not None and not bool(keep.sum(axes).all()):
                raise BadInput(
                    f"the pattern {self.pattern.name!r} leaves filters of {name} without an entry, and its "
                    "module divides each by its norm (weight or spectral normalisation), so that the output "
                    f"would be NaN: view.select(exclude=({name!r},)), or take the pattern unstructured"
                )
        return Mask(masks)

    def _ranking(
        self,
        scores: Tensors,
        capacity: Mapping[str, int],
        budget: int,
        draw: str,
        left: Mapping[str, Tensor] | None = None,
    ) -> Ranking:
        if self.pattern.member.COUNTS != "whole units":  # means over units would be of the raised scores
            for name, values in scores.items():
                axes = self.sites[name].divided
                if axes is not None and not values.is_meta:
                    stream = generator(self.seed, "filters", f"{name}/{draw}")
                    protect_(values, axes, (left or {}).get(name), stream)
        return Ranking(
            scores,
            capacity,
            {name: self.sites[name] for name in scores},
            budget,
            generator(self.seed, "allocate", draw),
            lambda name: generator(self.seed, "ties", f"{name}/{draw}"),
            left or {},
        )


def _without(ranking: Ranking, fixed: Mapping[str, int]) -> Ranking:
    """What is left to share when some weights have their numbers."""
    scores = {name: values for name, values in ranking.scores.items() if name not in fixed}
    return replace(
        ranking,
        scores=scores,
        capacity={name: ranking.capacity[name] for name in scores},
        sites={name: ranking.sites[name] for name in scores},
        budget=ranking.budget - sum(fixed.values()),
    )


def protect_(scores: Tensor, axes: tuple[int, ...], left: Tensor | None, generator: torch.Generator) -> None:
    """Raise the best entry of every filter above all others, in place, so that each filter keeps it.

    Args:
        scores: floating-point, of one weight.
        axes: those that a filter spans.
        left: True where an entry was not removed earlier; None: everywhere.
        generator: chooses among equal scores, so that position never does.
    """
    values = scores if left is None else scores.masked_fill(~left.to(scores.device), -torch.inf)
    tied = (values == values.amax(axes, keepdim=True)).logical_and_(values > -torch.inf).cpu()
    draws = torch.rand(scores.shape, generator=generator, dtype=torch.float64).masked_fill_(~tied, -1)
    best = (draws == draws.amax(axes, keepdim=True)).logical_and_(tied)
    scores.masked_fill_(best.to(scores.device), torch.finfo(scores.dtype).max)


def expect_no_empty_filter(view: View, mask: Mask) -> None:
    """What puts a mask on a network says to one that empties what the network divides by its norm.

    Raises:
        BadInput: it does.
    """
    for weight in view.weights:
        keep = next((mask.keep[name] for name in (weight.name, *weight.tied) if name in mask.keep), None)
        if keep is not None and tuple(keep.shape) == weight.shape and (empty := weight.empty_filters(keep)):
            raise BadInput(
                f"the mask leaves {empty} of {weight.filters} filters of {weight.name} without an entry, and "
                "its module divides each by its norm, so that the output would be NaN: keep an entry of each"
            )


def sites(view: View) -> dict[str, Site]:
    """What every prunable tensor of a view is, in order of definition; a bias is a block of its own."""
    weights = {w.name: w for w in view.weights}
    stem = next((w.name for w in view.weights if w.role == "conv"), None)
    found: dict[str, Site] = {}
    for name, shape in view.prunable_shapes().items():
        if name in weights:
            blocks = weights[name].layout.blocks(torch.empty(shape, device="meta"))
            shapes = tuple(tuple(block.shape) for block in blocks)
            weight = weights[name]
            found[name] = Site(
                shapes,
                weight.layout,
                weight.role,
                stem=name == stem,
                divided=weight.divided,
                filters=weight.filters,
            )
        else:
            found[name] = Site((shape,), None, "bias")
    return found


def expect_sparsity(value: object) -> None:
    """What takes a sparsity says to what is none.

    Raises:
        BadInput: it is no number in [0, 1).
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < 1:
        raise BadInput(
            f"sparsity is the fraction removed, a number: expected 0 <= sparsity < 1, got {value!r}"
        )


def check_compatibility(
    pattern: BoundMember[Pattern], allocation: BoundMember[Allocation], schedule: BoundMember[Schedule]
) -> None:
    """Stop compositions that make no sense, before anything is scored.

    Raises:
        BadInput: says why (:func:`sigprune.values.compatibility.incompatibility`).
    """
    chosen = MemberSpec(allocation.name, allocation.options)
    reason = incompatibility(pattern.member.COUNTS, pattern.name, chosen, schedule.name)
    if reason is not None:
        raise BadInput(reason)
