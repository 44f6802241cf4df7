"""Whole outputs (channels, neurons, heads) are kept or removed."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.base.registry import Count
from sigprune.families.patterns import Allocate
from sigprune.families.patterns._units import whole_units
from sigprune.values.ranking import Ranking

PAPER = "Li et al. 2017, arXiv 1608.08710 (filters); Michel et al. 2019, arXiv 1905.10650 (heads)"
COUNTS: Literal["whole units"] = "whole units"


def select(ranking: Ranking, allocate: Allocate, *, rows: Count = 1) -> dict[str, Tensor]:
    """The outputs with the highest mean scores.

    A unit is ``rows`` consecutive rows of one block: with the size of a head, heads of query, key and value
    projections. A bias, if biases are prunable, is a unit of its own: a removed row may keep it. Fewer
    entries are kept than asked for, by less than the largest unit. Rows that a module divides by their norms
    (weight normalisation) cannot go: that is refused. Memory: the masks, and the order of units.

    Raises:
        BadInput: a classifier would be pruned, or the budget does not pay for one unit.
    """
    for name, site in ranking.sites.items():
        if site.role == "head":
            raise BadInput(
                f"channel: the rows of {name} are the outputs of the network, and a class without its row is "
                "never predicted: leave it dense with view.select(exclude=('head',)), in a recipe "
                "prune.exclude: [head]"
            )
    return whole_units(ranking, allocate, lambda shape: (rows, shape[1]))
