"""Exact division of a budget in given proportions."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sigprune.values.ranking import Ranking


def share(ranking: Ranking, desire: Mapping[str, float]) -> dict[str, int]:
    """Integer counts in proportion to ``desire``, at most the capacity each, that sum to the budget.

    What a full weight cannot take goes to the others in the same proportions; the fractions left by rounding
    down go to the largest ones, ties in random order.
    """
    ideal = _fill(ranking, desire)
    counts = {name: int(value) for name, value in ideal.items()}
    names = list(counts)
    shuffled = [names[i] for i in torch.randperm(len(names), generator=ranking.generator).tolist()]
    by_fraction = sorted(shuffled, key=lambda name: counts[name] - ideal[name])
    missing = ranking.budget - sum(counts.values())
    while missing > 0:
        for name in by_fraction:
            if missing > 0 and counts[name] < ranking.capacity[name]:
                counts[name] += 1
                missing -= 1
    return counts


def _fill(ranking: Ranking, desire: Mapping[str, float]) -> dict[str, float]:
    """Real-valued shares min(capacity, eps · desire) with the one eps at which they sum to the budget."""
    open_names = set(desire)
    shares: dict[str, float] = {}
    while True:
        rest = ranking.budget - sum(shares.values())
        eps = rest / sum(desire[name] for name in open_names) if open_names else 0.0
        full = {name for name in open_names if eps * desire[name] >= ranking.capacity[name]}
        if not full:
            return {name: shares.get(name, eps * desire[name]) for name in desire}
        shares |= {name: float(ranking.capacity[name]) for name in full}
        open_names -= full
