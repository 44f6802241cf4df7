"""Exact division of a budget, in proportions or along a rising curve, between floors and capacities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction

import torch

from sigprune.base.errors import BadInput
from sigprune.values.ranking import Ranking


def share(
    ranking: Ranking, desire: Mapping[str, float], least: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Integer counts in proportion to ``desire``, at most the capacity each, that sum to the budget.

    What a full weight cannot take goes to the others in the same proportions; the fractions left by rounding
    down go to the largest ones, ties in random order.

    Args:
        ranking: capacities and the budget.
        desire: name -> a number >= 0.
        least: name -> a count that is not gone below.
    """
    return divide(ranking, lambda x: {name: x * value for name, value in desire.items()}, least)


def divide(
    ranking: Ranking, curve: Callable[[float], Mapping[str, float]], least: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Integer counts that sum to the budget, from ideal ones that rise together with one number.

    The ideal counts are ``curve(x)`` cut to [least, capacity] with the x at which they sum to the budget,
    found by bisection; they are rounded by largest remainder, ties in random order.

    Args:
        ranking: capacities and the budget.
        curve: x -> name -> ideal count, rising in x from zero; all names, in order.
        least: name -> a count that is not gone below; their sum is at most the budget.
    """

    def at(x: float) -> dict[str, float]:
        cuts = least or {}
        return {n: min(max(v, cuts.get(n, 0)), ranking.capacity[n]) for n, v in curve(x).items()}

    low, high = 0.0, 1.0
    while math.fsum(at(high).values()) < ranking.budget and high < 2.0**1000:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if math.fsum(at(middle).values()) <= ranking.budget else (low, middle)
    return _rounded(ranking, _topped(ranking, at(low)))


def _topped(ranking: Ranking, ideal: dict[str, float]) -> dict[str, float]:
    """Where the curve ends below the budget (a desire of zero), the rest in proportion to what is free."""
    free = {name: ranking.capacity[name] - value for name, value in ideal.items()}
    rest = ranking.budget - math.fsum(ideal.values())
    if rest < 1:
        return ideal
    part = rest / math.fsum(free.values())
    return {name: value + part * free[name] for name, value in ideal.items()}


def _rounded(ranking: Ranking, ideal: Mapping[str, float]) -> dict[str, int]:
    counts = {name: min(int(value), ranking.capacity[name]) for name, value in ideal.items()}
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


def floors(ranking: Ranking, density: float) -> dict[str, int]:
    """Name -> the least count that keeps the density in that weight (as far as an earlier round left it).

    Raises:
        BadInput: the budget does not pay for all of them.
    """
    least = {
        name: min(math.ceil(Fraction(str(density)) * size), ranking.capacity[name])
        for name, size in ranking.sizes().items()
    }
    affordable(ranking, least, f"a floor of {density:g} in every weight")
    return least


def affordable(ranking: Ranking, least: Mapping[str, int], what: str) -> None:
    """Refuse least counts that sum to more than the budget.

    Raises:
        BadInput: they do; names the highest sparsity that they allow.
    """
    needed, total = sum(least.values()), sum(ranking.sizes().values())
    if needed > ranking.budget:
        highest = math.floor(10_000 * (1 - Fraction(needed, total))) / 10_000
        raise BadInput(
            f"{what} keeps {needed} of {total} entries, more than the {ranking.budget} that the sparsity "
            f"leaves: lower it, or set sparsity to at most {highest:g}"
        )
