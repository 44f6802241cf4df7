"""Selecting: from scores and a number to the entries that are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.base.family import Choice, Step
from sigprune.base.seeds import generator
from sigprune.base.tensors import Tensors
from sigprune.families.allocations import Allocation
from sigprune.families.patterns import Allocate, FixedPattern, Pattern
from sigprune.families.schedules import Schedule
from sigprune.values.composition import objection
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
    allocation: Choice[Allocation]
    pattern: Choice[Pattern]
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
        allocate: Allocate = partial(self.allocation.member.allocate, **self.allocation.options)
        return Mask(self.pattern.member.select(ranking, allocate, **self.pattern.options))

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
            return self.allocation.member.allocate(ranking, **self.allocation.options)
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
        return Mask(self.pattern.member.select(ranking, lambda _: dict(kept), **self.pattern.options))

    def _ranking(
        self,
        scores: Tensors,
        capacity: Mapping[str, int],
        budget: int,
        draw: str,
        left: Mapping[str, Tensor] | None = None,
    ) -> Ranking:
        return Ranking(
            scores,
            capacity,
            {name: self.sites[name] for name in scores},
            budget,
            generator(self.seed, "allocate", draw),
            lambda name: generator(self.seed, "ties", f"{name}/{draw}"),
            left or {},
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
            found[name] = Site(shapes, weights[name].layout, weights[name].role, stem=name == stem)
        else:
            found[name] = Site((shape,), None, "bias")
    return found


def refuse(pattern: Choice[Pattern], allocation: Choice[Allocation], schedule: Choice[Schedule]) -> None:
    """Stop compositions that make no sense, before anything is scored.

    Raises:
        BadInput: says why (:func:`sigprune.values.composition.objection`).
    """
    chosen = Step(allocation.name, allocation.options)
    reason = objection(pattern.member.COUNTS, pattern.name, chosen, schedule.name)
    if reason is not None:
        raise BadInput(reason)
