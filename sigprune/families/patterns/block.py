"""Tiles of rows x columns are kept or removed whole (16x1, 32x32)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sigprune.base.registry import Count
from sigprune.families.patterns import Allocate
from sigprune.families.patterns._units import whole_units
from sigprune.values.ranking import Ranking

PAPER = "Gray et al. 2017 (blocks of 8, 16 or 32 on GPUs); Elsen et al. 2020, arXiv 1911.09723 (16x1 on CPUs)"
COUNTS: Literal["whole units"] = "whole units"


def select(
    ranking: Ranking, allocate: Allocate, *, rows: Count = 16, columns: Count = 1
) -> dict[str, Tensor]:
    """The tiles with the highest mean scores.

    A tile holds ``rows`` outputs x ``columns`` inputs of the matrix of one block (for convolutions channels
    last, as in ``n_m``); those at the edges are smaller. Fewer entries are kept than asked for, by less than
    the largest tile. Memory: the masks, and the order of the units.

    Raises:
        BadInput: the budget does not pay for one tile.
    """
    return whole_units(ranking, allocate, lambda _: (rows, columns))
