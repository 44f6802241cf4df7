"""Every output keeps the same number of inputs: scores are compared within rows only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from sigprune.families.patterns import Allocate
from sigprune.families.patterns._rows import best_in_rows
from sigprune.values.ranking import Ranking, Site, pick

PAPER = "Sun et al. 2024, arXiv 2306.11695, section 3 (comparison per output)"
COUNTS: Literal["exact"] = "exact"


def select(ranking: Ranking, allocate: Allocate) -> dict[str, Tensor]:
    """The best of every row of every block; a random choice of the rows of a weight keeps one more.

    So totals are exact. Rows from which less is left than the others keep (only where scores came back from
    another pattern) keep all they have. Memory: the masks, one block, and chunks of rows.
    """
    counts = allocate(ranking)
    return {
        name: _rows(ranking.take(name), counts[name], ranking.sites[name], ranking.ties(name))
        for name in list(ranking.scores)
    }


def _rows(scores: Tensor, count: int, site: Site, generator: torch.Generator) -> Tensor:
    scores = scores.contiguous()
    left = [(rows.flatten(1) > -torch.inf).sum(1).cpu() for rows in _matrices(scores, site)]
    shares = _level(torch.cat(left), count, generator).split([len(part) for part in left])
    keep = torch.zeros(scores.shape, dtype=torch.bool)
    for rows, places, share in zip(_matrices(scores, site), _matrices(keep, site), shares, strict=True):
        places.copy_(best_in_rows(rows.flatten(1), share, generator).reshape(places.shape))
    return keep


def _matrices(tensor: Tensor, site: Site) -> Iterator[Tensor]:
    """The blocks; a bias is one row: with one entry in each, none of its scores would be compared."""
    return iter((tensor.reshape(1, -1),)) if site.layout is None else site.rows(tensor)


def _level(left: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """min(left, level) with the highest level that ``count`` allows, and the rest spread one by one."""
    low, high = 0, int(left.max())
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if int(left.clamp(max=level).sum()) <= count else (low, level - 1)
    shares = left.clamp(max=low)
    open_rows = (left > low).nonzero().squeeze(1)
    shares[open_rows[pick(count - int(shares.sum()), len(open_rows), generator)]] += 1
    return shares
